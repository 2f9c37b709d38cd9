"""UCFRep's .mat files and raw lists, Charades' lists, made up in their form; what they refuse, with file and line."""

import numpy as np
from scipy.io import savemat

from sigma_jax.data.annotations import decode
from sigma_jax.datasets.list_formats import ListSpec, read_list


def _mat(path, bounds, **changes):
    bounds = np.asarray(bounds)
    label = {"temporal_bound": bounds, "temporal_bound_num": len(bounds), "start_frame": bounds[0]}
    label |= {"end_frame": bounds[-1], "duration": bounds[-1] - bounds[0] + 1} | changes
    savemat(path, {"label": label})


def test_ucfrep_mat_files(tmp_path):
    (tmp_path / "mat/train").mkdir(parents=True)
    (tmp_path / "v/PushUps").mkdir(parents=True)
    for name in ("v_PushUps_g01_c01", "v_PushUps_g01_c02", "v_PushUps_g01_c03", "v_PushUps_g01_c04"):
        (tmp_path / f"v/PushUps/{name}.avi").touch()
    _mat(tmp_path / "mat/train/v_PushUps_g01_c01.mat", [1, 27, 43])
    _mat(tmp_path / "mat/train/v_PushUps_g01_c02.mat", [1, 27])
    _mat(tmp_path / "mat/train/v_PushUps_g01_c03.mat", [1, 43, 27])
    _mat(tmp_path / "mat/train/v_PushUps_g01_c04.mat", [1, 27, 43], duration=99)
    _mat(tmp_path / "mat/train/v_PushUps_g09_c01.mat", [1, 27, 43])
    (tmp_path / "mat/train/broken.mat").write_text("no")
    found, _ = read_list("ucfrep", ListSpec(tmp_path / "mat", tmp_path / "v", "train"))
    assert [(entry.key, entry.label) for entry in found.entries] == [("v_PushUps_g01_c01", "PushUps")]
    assert decode(found.entries[0].annotation).boundaries == (0, 26, 42)
    told = {refusal.key: refusal.reason for refusal in found.refused}
    assert "1 cycles between 2 boundaries" in told["v_PushUps_g01_c02"]
    assert "boundaries out of order: 26 follows 42" in told["v_PushUps_g01_c03"]
    assert "duration is 99, but temporal_bound says 43" in told["v_PushUps_g01_c04"]
    assert "no such file" in told["v_PushUps_g09_c01"] and "no annotation of UCFRep" in told["broken"]
    assert all(f"{key}.mat" in reason for key, reason in told.items())


def test_ucfrep_raw_lists(tmp_path):
    (tmp_path / "raw").mkdir()
    lines = ["v_PushUps_g01_c01", "1 27 43", "v_PushUps_g01_c02.avi", "0"]
    lines += ["v_PushUps_g01_c03", "1, 9, x7", "v_PushUps_g01_c04", "5", "9", "14"]
    (tmp_path / "raw/PushUps.txt").write_text("\n".join(lines))
    (tmp_path / "imgs/train/PushUps/v_PushUps_g01_c01").mkdir(parents=True)
    (tmp_path / "v_PushUps_g01_c04.avi").touch()
    found, _ = read_list("ucfrep", ListSpec(tmp_path / "raw", tmp_path / "imgs", "train"))
    assert [(entry.key, entry.images) for entry in found.entries] == [("v_PushUps_g01_c01", (0, -1))]
    reasons = [refusal.reason for refusal in found.refused]
    assert "line 3 of PushUps.txt: marked as unusable" in reasons[0]
    assert "expected numbers of frames in line 6 of PushUps.txt, got 'x7'" in reasons[1]
    assert "line 7 of PushUps.txt: no such file" in reasons[2]
    found, _ = read_list("ucfrep", ListSpec(tmp_path / "raw/PushUps.txt", tmp_path, "train"))
    assert decode(found.entries[-1].annotation).boundaries == (4, 8, 13)


HEADER = "original_vido_id video_id frame_id path labels\n"


def _frames(video, labels, first=0):
    return "".join(
        f'{video} 0 {number} {video}/{video}-{number + 1:06d}.jpg "{text}"\n'
        for number, text in enumerate(labels, first)
    )


def test_charades_frame_lists(tmp_path):
    for video in ("AAA", "BBB", "CCC", "DDD"):
        (tmp_path / video).mkdir()
    text = HEADER + _frames("AAA", ["", "3,5", "5"]) + _frames("BBB", ["157"]) + _frames("CCC", ["1"], first=1)
    (tmp_path / "train.csv").write_text(text + _frames("DDD", ["", ""]) + _frames("EEE", ["2"]) + "FFF 0 0 x\n")
    found, names = read_list("charades_frames", ListSpec(tmp_path / "train.csv", tmp_path))
    assert names == [] and [(e.key, e.label, e.images) for e in found.entries] == [
        ("AAA", "5", (1, 3)), ("DDD", "", (1, 2)),
    ]  # fmt: skip
    assert decode(found.entries[0].annotation).spans == ((3, 1, 1), (5, 1, 2))
    told = {refusal.key: refusal.reason for refusal in found.refused}
    assert "line 5: labels [157] are not in the label map, expected 0..156" in told["BBB"]
    assert "line 6: frame 1, expected 0" in told["CCC"]
    assert "line 9 of train.csv: no such folder" in told["EEE"]
    assert "line 10 of train.csv: expected five fields, got 4" in told["FFF"]


def test_charades_csv_keeps_all_actions(tmp_path):
    rows = "AAA,c092 11.90 21.20;c147 0.00 12.60\nBBB,\nCCC,c200 0 1\nDDD,c001 0\n"
    (tmp_path / "list.csv").write_text("id,actions\n" + rows)
    for video in ("AAA", "BBB", "CCC", "DDD"):
        (tmp_path / f"{video}.mp4").touch()
    found, _ = read_list("charades", ListSpec(tmp_path / "list.csv", tmp_path))
    assert [(entry.key, entry.label) for entry in found.entries] == [("AAA", "147"), ("BBB", "")]
    labels = decode(found.entries[0].annotation)
    assert labels.in_seconds and labels.spans == ((92, 11.9, 21.2), (147, 0.0, 12.6))
    assert decode(found.entries[1].annotation).spans == ()
    assert [refusal.key for refusal in found.refused] == ["CCC", "DDD"]
