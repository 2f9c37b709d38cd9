"""Lists of the real world: encodings, separators, quotes, headers and columns are decided by what the file holds."""

import pytest

from sigma_jax.datasets.tables import read_rows, read_table
from sigma_jax.runtime.errors import InvalidValue

VIDEOS = {"a.mp4", "b c.mp4", "d,e.mp4", 'say "hi".mp4', "f;g.mp4", "sub/h.mp4", "#1.mp4", "two\nlines.mp4"}


def _read(tmp_path, content, videos=VIDEOS):
    path = tmp_path / "list.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = read_table(path, lambda name: name in videos)
    return {row.path: row.label for row in table.rows}, table


@pytest.mark.parametrize(
    "content",
    [
        'path,label\r\na.mp4,tea time\r\n"d,e.mp4","high, jump"\r\n"say ""hi"".mp4",x\r\n',
        'label;file\ntea time;a.mp4\n"high, jump";d,e.mp4\nx;"say ""hi"".mp4"\n',
        'a.mp4\ttea time\nd,e.mp4\thigh, jump\nsay "hi".mp4\tx\n',
        'Video Name|Other|Class\na.mp4|1|tea time\nd,e.mp4|2|high, jump\nsay "hi".mp4|3|x\n',
        ',path,label,\n0,a.mp4,tea time,\n1,"d,e.mp4","high, jump",\n2,"say ""hi"".mp4",x,\n',
        '# made by hand\npath, label\na.mp4, tea time\n# more\n"d,e.mp4", "high, jump"\nsay "hi".mp4,  x  \n',
        'sep=;\nlabel;file\n"tea time";a.mp4\n"high, jump";d,e.mp4\nx;"say ""hi"".mp4"\n',
        '{"file_name": "a.mp4", "label": "tea time"}\n{"label": "high, jump", "file_name": "d,e.mp4"}\n'
        '{"file_name": "say \\"hi\\".mp4", "label": "x", "fps": 25}\n',
        'a.mp4 tea time\nd,e.mp4 high, jump\n"say "hi".mp4" x\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_the_same_list_in_every_form(tmp_path, content, encoding):
    found, table = _read(tmp_path, content.encode(encoding))
    assert found == {"a.mp4": "tea time", "d,e.mp4": "high, jump", 'say "hi".mp4': "x"}
    assert not table.misfits


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a.mp4,1\nd,e.mp4,2\n", {"a.mp4": "1", "d,e.mp4": "2"}),  # a separator in a path without quotes
        ("1 b c.mp4\n0 a.mp4\n", {"b c.mp4": "1", "a.mp4": "0"}),  # the label first
        ("jump,a.mp4\nrun,sub/h.mp4\n", {"a.mp4": "jump", "sub/h.mp4": "run"}),
        ("a.mp4\nb c.mp4\nd,e.mp4\n", {"a.mp4": "", "b c.mp4": "", "d,e.mp4": ""}),  # bare paths
        ("video\na.mp4\nb c.mp4\n", {"a.mp4": "", "b c.mp4": ""}),
        ("a.mp4 1\nd,e.mp4 2\nd,x.mp4 2\n", {"a.mp4": "1", "d,e.mp4": "2", "d,x.mp4": "2"}),  # commas in most paths
        ("#1.mp4,x\n#2.mp4,x\na.mp4,y\n", {"#1.mp4": "x", "a.mp4": "y"}),  # a comment is what is no file
        ("# a.mp4 1\na.mp4 2\n", {"a.mp4": "2"}),
        ("#tag,a.mp4\n#no,gone.mp4\nx,sub/h.mp4\n", {"a.mp4": "#tag", "sub/h.mp4": "x"}),
        ('"two\nlines.mp4",x\na.mp4,y\n', {"two\nlines.mp4": "x", "a.mp4": "y"}),
        ("path,label\r\ra.mp4,0\rsub/h.mp4,1\r", {"a.mp4": "0", "sub/h.mp4": "1"}),  # line ends of old Macs
        ("gone.mp4,1\nlost.mp4,2\n", {"gone.mp4": "1", "lost.mp4": "2"}),  # nothing exists: the usual order
        ("id,class_id,action\na.mp4,4,run\n", {"a.mp4": "run"}),  # the first known name of a label counts
        ("a.mp4,run,\nsub/h.mp4,walk,\n", {"a.mp4": "run", "sub/h.mp4": "walk"}),  # an empty column
        ('[{"video": "a.mp4", "class": 3},\n {"video": "b c.mp4", "class": 0}]', {"a.mp4": "3", "b c.mp4": "0"}),
        ("video,emotion\na.mp4,joy\n", {"a.mp4": "joy"}),
        ("video,duration\na.mp4,3.2\n", {"a.mp4": ""}),  # no label
        ("Unnamed: 0,video,fps,emotion\n0,a.mp4,25,joy\n", {"a.mp4": "joy"}),
        ("id,file_2,label\n7,a.mp4,joy\n8,b c.mp4,fear\n", {"a.mp4": "joy", "b c.mp4": "fear"}),  # `id` is no path here
        ('{"a.mp4": {"class": 3, "fps": 25},\n "b c.mp4": {"class": 0}}', {"a.mp4": "3", "b c.mp4": "0"}),
        ("", {}),
        ("\n \n", {}),
    ],
)
def test_columns(tmp_path, content, expected):
    assert _read(tmp_path, content)[0] == expected


def test_quotes_that_do_not_pair_up_cost_no_other_line(tmp_path):
    found, _ = _read(tmp_path, 'a.mp4,x\n"broken.mp4,y\nsub/h.mp4,z\n"d,e.mp4",w\n')
    assert found["a.mp4"] == "x" and found["sub/h.mp4"] == "z" and found["d,e.mp4"] == "w"


def test_lines_that_do_not_fit_are_named(tmp_path):
    found, table = _read(tmp_path, "path,label,split\na.mp4,run,train\nsub/h.mp4\nb c.mp4,,val\n#1.mp4,x,,\n")
    assert found == {"a.mp4": "run"}
    assert [(number, text) for number, text, _ in table.misfits] == [
        (3, "sub/h.mp4"),
        (4, "b c.mp4,,val"),
        (5, "#1.mp4,x,,"),
    ]
    assert all("expected 3 columns" in reason for *_, reason in table.misfits)
    assert [row.split for row in table.rows] == ["train"]
    assert table.notes == [
        "list.csv: columns parted by commas, path in column 1, label in column 2, split in column 3, a header"
    ]


@pytest.mark.parametrize("header", ["", "clip,mood,part\n"])
def test_a_column_of_splits_is_one_whatever_it_is_called(tmp_path, header):
    _, table = _read(tmp_path, f"{header}a.mp4,joy,train\nb c.mp4,fear,test\nsub/h.mp4,joy,train\n")
    assert [(row.label, row.split) for row in table.rows] == [("joy", "train"), ("fear", "test"), ("joy", "train")]


def test_columns_that_are_not_used_are_named(tmp_path):
    _, table = _read(tmp_path, "path,label,fold\na.mp4,joy,1\nsub/h.mp4,fear,2\n")
    assert table.notes[0].endswith("a header, not used: fold")


@pytest.mark.parametrize(
    "content",
    [
        "a.mp4,16,3\nsub/h.mp4,12,4\n",
        "a.mp4 16 3\nb c.mp4 12 4\n",
        "x,a.mp4,y\nz,b c.mp4,y\n",
        "path,mood,place\na.mp4,joy,home\n",
    ],
)
def test_a_label_that_nothing_names_is_an_error(tmp_path, content):
    with pytest.raises(
        InvalidValue, match="columns, and nothing says which of them is the label: call one of them `label`"
    ):
        _read(tmp_path, content)


def test_another_encoding_than_the_first_bytes_say(tmp_path):
    with pytest.raises(InvalidValue, match=r"list.csv is no utf-16, as its first bytes say.*save it as UTF-8"):
        _read(tmp_path, b"\xff\xfea\x00b")
    assert _read(tmp_path, "café.mp4,1\n".encode("latin-1"))[0] == {"caf\udce9.mp4": "1"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 and so on", "is an Excel or zip file, expected text: save it as CSV"),
        (b"PAR1\x15\x04", "is a Parquet file"),
        (b'{"path": "a.mp4"', "begins like JSON but is no list of objects"),
        (b'[{"path": 1}, 2]', "begins like JSON but is no list of objects"),
    ],
)
def test_files_that_are_no_list(tmp_path, content, message):
    with pytest.raises(InvalidValue, match=f"list.csv {message}"):
        _read(tmp_path, content)


def test_rows_by_the_names_of_columns(tmp_path):
    (tmp_path / "list.csv").write_text('ID;Actions\n7;"c001; c002"\n8\n', encoding="utf-16")
    assert list(read_rows(tmp_path / "list.csv")) == [
        (2, {"id": "7", "actions": "c001; c002"}),
        (3, {"id": "8", "actions": ""}),
    ]


def test_json_values_that_are_no_label_are_misfits(tmp_path):
    lines = ['{"path": "a.mp4", "label": 1}', '{"path": "b c.mp4", "label": ["x", "y"]}', '{"path": null, "label": 2}']
    found, table = _read(tmp_path, "\n".join(lines))
    assert found == {"a.mp4": "1"} and [number for number, *_ in table.misfits] == [3, 4]
