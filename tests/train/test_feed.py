"""The feed: one batch ahead on the devices, while the position stays with the batch in use."""

from sigma_jax.train.feed import DeviceFeed


class Counting:
    """A loader whose batches are their own numbers."""

    def __init__(self, start):
        self.next_batch = start

    def __next__(self):
        self.next_batch += 1
        return {"video": self.next_batch - 1}

    def state(self):
        return {"next_batch": self.next_batch}


def test_the_next_batch_is_sent_before_this_one_is_used():
    sent = []
    feed = DeviceFeed(Counting(3), lambda batch: sent.append(batch["video"]) or {"video": -batch["video"]}, 3, 6)
    for step in (3, 4, 5):
        assert feed.step == step and feed.state() == {"next_batch": step}  # what a checkpoint before the step keeps
        host, device = next(feed)
        assert (host["video"], device["video"]) == (step, -step)
        assert sent[-1] == min(step + 1, 5)  # nothing is read beyond the last step
    assert feed.step == 6 and feed.state() == {"next_batch": 6}
