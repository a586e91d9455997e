"""The configurator as a user sees it: values, mistakes and their one line, --help, and how a script ends."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm import configurator
from llm.configurator import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UserError,
    Words,
    command,
    help_for,
    load_settings,
)
from llm.help import help_text


@dataclass(frozen=True)
class Shared:
    # machine
    device: str = "auto"  # cpu, cuda or mps
    compile: bool | Literal["auto"] = "auto"  # torch.compile


@dataclass(frozen=True)
class Settings(Shared):
    """A class with a docstring, which is not a setting."""

    # input and output
    out_dir: str = "out"  # where checkpoints go
    note: str | None = None  # a remark
    eval_only: bool = False  # evaluate and stop

    # numbers,
    # in two comment lines
    batch_size: PositiveInt = 12  # sequences in a step
    max_iters: PositiveInt = 600  # steps in all
    seed: int = 1337  # of the random numbers
    top_k: NonNegativeInt | None = 200  # 0 = off
    learning_rate: PositiveFloat = 6e-4  # the highest
    min_lr: NonNegativeFloat | None = None  # where the decay ends
    dropout: Fraction = 0.0  # 0 = none
    temperature: float = (  # a default
        1.0
    )  # on three lines
    device: str = "cpu"
    # a heading without settings

    def __post_init__(self):
        # a comment in a method is not a heading
        if self.min_lr is not None and self.min_lr > self.learning_rate:
            raise UserError(f"min_lr={self.min_lr} is above\nlearning_rate={self.learning_rate}")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder of each test, beside a folder for the script."""
    for folder in ("here/config", "script/config"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def load(*argv, **files):
    """The settings from a command line, after writing config files into the current folder."""
    for name, text in files.items():
        Path(f"{name}.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_settings(Settings, list(argv), script_folder=Path("../script"))


def mistake(*argv, **files):
    """The message of the UserError that a command line causes."""
    with pytest.raises(UserError) as caught:
        load(*argv, **files)
    return str(caught.value)


# --- values ---


def test_no_arguments_give_the_defaults():
    assert load() == Settings()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--out_dir=a=b", "a=b"),
        ("--out_dir=42", "42"),
        ("--out_dir=", ""),
        ("--out_dir=None", "None"),
        ("--out_dir= two words ", " two words "),
        ("--note=None", None),
        ("--note=none", None),
        ("--note=True", "True"),
        ("--batch_size=64", 64),
        ("--batch_size=1e3", 1000),
        ("--batch_size=5_000", 5000),
        ("--seed=-1", -1),
        ("--seed=9007199254740993", 9007199254740993),
        ("--top_k=None", None),
        ("--top_k=0", 0),
        ("--learning_rate=1", 1.0),
        ("--learning_rate=3e-4", 3e-4),
        ("--min_lr=none", None),
        ("--min_lr=0", 0.0),
        ("--eval_only=TRUE", True),
        ("--eval_only=false", False),
        ("--compile=True", True),
        ("--compile=auto", "auto"),
    ],
)
def test_text_is_converted_to_the_type_of_the_setting(argument, value):
    name = argument[2:].partition("=")[0]
    read = getattr(load(argument), name)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("learning_rate = 1", "learning_rate", 1.0),
        ("batch_size = 1e3", "batch_size", 1000),
        ("batch_size = 5 * 8", "batch_size", 40),
        ("top_k = None", "top_k", None),
        ("compile = False", "compile", False),
        ("compile = 'auto'", "compile", "auto"),
        ("note = 'None'", "note", "None"),
        ("seed: int = 5", "seed", 5),
        ("seed += 1", "seed", 1338),
        ("seed, note = 1, 'a'", "note", "a"),
        ("if (seed := 3): pass", "seed", 3),
        ("max_iters = batch_size", "max_iters", 12),
        ("from math import pi as temperature", "temperature", 3.141592653589793),
    ],
)
def test_a_config_file_sets_a_python_value(line, name, value):
    read = getattr(load("a.py", a=line), name)
    assert (read, type(read)) == (value, type(value))


def test_the_last_one_of_files_and_options_wins():
    assert load("a.py", "--seed=2", a="seed = 1").seed == 2
    assert load("--seed=2", "a.py", a="seed = 1").seed == 1
    assert load("--seed=2", "--seed=3").seed == 3


def test_a_config_file_can_read_the_settings_so_far_and_keeps_those_it_does_not_assign():
    loaded = load("--max_iters=7", "--out_dir=x", "a.py", a="batch_size = 2 * max_iters")
    assert (loaded.batch_size, loaded.max_iters, loaded.out_dir) == (14, 7, "x")


def test_modules_functions_and_underscored_names_of_a_config_file_are_not_settings():
    imports = "import math, os.path\nfrom math import pi\nfrom string import *\n"
    assert load("a.py", a=imports + "_x = 3\ndef f(): return _x\nclass A: pass\nseed = f()").seed == 3


def test_names_inside_functions_and_comprehensions_are_not_settings():
    assert load("a.py", a="def f():\n    inner = 1\n    return inner\nseed = sum(i for i in [f()])").seed == 1


def test_a_config_file_knows_its_own_path(here):
    assert load("a.py", a="out_dir = __file__").out_dir == str(here / "a.py")


def test_a_config_file_may_start_with_a_byte_order_mark_and_hold_any_letter():
    assert load("a.py", a=b"\xef\xbb\xbf" + "out_dir = 'ä'".encode()).out_dir == "ä"


def test_a_config_file_is_searched_in_the_current_folder_first_then_beside_the_script(here):
    (here / "../script/config/a.py").write_text("seed = 1")
    assert load("config/a.py").seed == 1
    (here / "config/a.py").write_text("seed = 2")
    assert load("config/a.py").seed == 2


def test_a_config_file_may_have_an_equals_sign_in_its_name():
    Path("seed=1.py").write_text("seed = 8")
    assert load("seed=1.py").seed == 8


def test_only_the_final_settings_must_be_consistent():
    assert load("--min_lr=1", "--learning_rate=2").min_lr == 1.0


def test_ctrl_c_inside_a_config_file_passes_through():
    with pytest.raises(KeyboardInterrupt):
        load("a.py", a="raise KeyboardInterrupt")


# --- mistakes ---

BATCH = "expected int >= 1, for example --batch_size=12"
IN_FILE = "expected int >= 1, for example batch_size = 12"
OWN = "for a name of your own"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("--learning_rat=1", "--learning_rat=1: no setting learning_rat; type --learning_rate=1"),
        ("--zzz=1", "--zzz=1: no setting zzz; --help lists the settings"),
        ("--zzz", "--zzz: no setting zzz; --help lists the settings"),
        ("--=3", "--=3: expected --key=value; --help lists the settings"),
        ("--", "--: expected --key=value; --help lists the settings"),
        ("--batch_size 3", "--batch_size: expected --key=value; type --batch_size=3"),
        ("--batch_size config/a.py", "--batch_size: expected --key=value; type --batch_size=12"),
        ("--batch_size --seed=3", "--batch_size: expected --key=value; type --batch_size=12"),
        ("--seed -3", "--seed: expected --key=value; type --seed=-3"),
        ("--batch_siz 3", "--batch_siz: no setting batch_siz; type --batch_size=3"),
        ("--eval_only", "--eval_only: expected --key=value; type --eval_only=True"),
        ("--eval_only False", "--eval_only: expected --key=value; type --eval_only=False"),
        ("--out_dir", "--out_dir: expected --key=value; type --out_dir=out"),
        ("--out_dir here", "--out_dir: expected --key=value; type --out_dir=here"),
        ("--out_dir --seed=3", "--out_dir: expected --key=value; type --out_dir=out"),
        ("--batch-size=3", "--batch-size=3: expected --key=value; type --batch_size=3"),
        ("-batch_size=3", "-batch_size=3: expected --key=value; type --batch_size=3"),
        ("—batch_size=3", "—batch_size=3: expected --key=value; type --batch_size=3"),
        ("batch_size=3", "batch_size=3: expected --key=value; type --batch_size=3"),
        ("batch_size 3", "batch_size: expected --key=value; type --batch_size=3"),
        ("--Batch_Size=3", "--Batch_Size=3: no setting Batch_Size; type --batch_size=3"),
        ("--batch_size=", f"--batch_size=: {BATCH}"),
        ("--batch_size=x", f"--batch_size=x: {BATCH}"),
        ("--batch_size=0", f"--batch_size=0: {BATCH}"),
        ("--batch_size=1.5", f"--batch_size=1.5: {BATCH}"),
        ("--batch_size=1e400", f"--batch_size=1e400: {BATCH}"),
        ("--batch_size=1e30", f"--batch_size=1e30: {BATCH}"),
        ("--batch_size=nan", f"--batch_size=nan: {BATCH}"),
        ("--batch_size=None", f"--batch_size=None: {BATCH}"),
        ("--batch_size=True", f"--batch_size=True: {BATCH}"),
        (
            f"--batch_size={10**20}",
            f"--batch_size={10**20}: expected int >= 1 and at most {2**63 - 1}, for example --batch_size=12",
        ),
        ("--top_k=-1", "--top_k=-1: expected int >= 0 or None, for example --top_k=200"),
        ("--dropout=1", "--dropout=1: expected float >= 0 and < 1, for example --dropout=0.0"),
        ("--learning_rate=0", "--learning_rate=0: expected float > 0, for example --learning_rate=0.0006"),
        ("--learning_rate=nan", "--learning_rate=nan: expected float > 0, for example --learning_rate=0.0006"),
        ("--temperature=inf", "--temperature=inf: expected float, for example --temperature=1.0"),
        ("--min_lr=-1", "--min_lr=-1: expected float >= 0 or None, for example --min_lr=None"),
        ("--eval_only=yes", "--eval_only=yes: expected true or false, for example --eval_only=False"),
        ("--compile=yes", "--compile=yes: expected true, false or auto, for example --compile=auto"),
        ("--min_lr=1", "min_lr=1.0 is above learning_rate=0.0006"),
    ],
)
def test_a_mistake_on_the_command_line_has_its_line(argv, line):
    assert mistake(*argv.split()) == line


def test_a_suggestion_is_quoted_for_the_shell():
    assert mistake("--out-dir=a b").endswith("type --out_dir='a b'")
    assert mistake("--out-dir=$a").endswith("type --out_dir='$a'")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\nlearning_rat = 1", f"a.py line 2: no setting learning_rat; type learning_rate, or _learning_rat {OWN}"),
        ("zzz = 1", f"a.py line 1: no setting zzz; type a name that --help lists, or _zzz {OWN}"),
        ("for zzz in [1]: pass", f"a.py line 1: no setting zzz; type a name that --help lists, or _zzz {OWN}"),
        ("globals()['zzz'] = 1", f"a.py: no setting zzz; type a name that --help lists, or _zzz {OWN}"),
        ("from math import pi\n\npi = 3", f"a.py line 3: no setting pi; type a name that --help lists, or _pi {OWN}"),
        ("batch_size = 1\nbatch_size = 'x'", f"a.py line 2: batch_size = 'x': {IN_FILE}"),
        ("batch_size: int = 0", f"a.py line 1: batch_size = 0: {IN_FILE}"),
        ("seed, batch_size = 1, 1.5", f"a.py line 1: batch_size = 1.5: {IN_FILE}"),
        ("for batch_size in [True]: pass", f"a.py line 1: batch_size = True: {IN_FILE}"),
        ("\nbatch_size -= 12", f"a.py line 2: batch_size = 0: {IN_FILE}"),
        ("batch_size = None", f"a.py line 1: batch_size = None: {IN_FILE}"),
        ("batch_size = float('inf')", f"a.py line 1: batch_size = inf: {IN_FILE}"),
        ("batch_size = 10 ** 5000", f"a.py line 1: batch_size: expected int >= 1 and at most {2**63 - 1}"),
        ("eval_only = 1", "a.py line 1: eval_only = 1: expected true or false, for example eval_only = False"),
        ("out_dir = 3", "a.py line 1: out_dir = 3: expected text, for example out_dir = 'out'"),
        ("dropout = 1", "a.py line 1: dropout = 1: expected float >= 0 and < 1, for example dropout = 0.0"),
        ("dropout = float('nan')", "a.py line 1: dropout = nan: expected float >= 0 and < 1, for example dropout = "),
        ("compile = 'yes'", "a.py line 1: compile = 'yes': expected true, false or auto, for example compile = 'auto'"),
        ("import math as seed", "a.py line 1: seed = <module 'math'"),
        ("seed = 1\nseed =", "a.py line 2: SyntaxError: invalid syntax"),
        ("\n  seed = 1", "a.py line 2: IndentationError: unexpected indent"),
        ("seed = 1\n\x00", "a.py: not UTF-8 text; save it as UTF-8"),
        ("\n\nseed = 1 / 0", "a.py line 3: ZeroDivisionError: division by zero"),
        ("def f():\n    return x\nseed = f()", "a.py line 2: NameError: name 'x' is not defined"),
        ("import json\njson.loads('')", "a.py line 2: json.decoder.JSONDecodeError: Expecting value: line 1 column 1"),
        ("raise SystemExit(3)", "a.py line 1: SystemExit: 3"),
        ("raise ValueError('two\\nlines')", "a.py line 1: ValueError: two lines"),
        (b"note = '\xff'", "a.py: not UTF-8 text; save it as UTF-8"),
        ("note = 'a'".encode("utf-16"), "a.py: not UTF-8 text; save it as UTF-8"),
    ],
)
def test_a_mistake_in_a_config_file_has_its_line(text, line):
    assert mistake("a.py", a=text).startswith(line)


def test_a_mistake_in_a_file_beside_the_script_names_its_path_from_the_current_folder(here):
    (here / "../script/config/a.py").write_text("zzz = 1")
    assert mistake("config/a.py").startswith("../script/config/a.py line 1: no setting zzz")


def test_a_long_value_is_shortened_in_a_message():
    assert len(mistake("a.py", a="seed = 'x' * 1000")) < 200


def test_the_message_about_a_missing_config_file_names_the_folders_and_the_nearest_files(here):
    (here / "config/train_tale.py").touch()
    (here / "../script/config/eval.py").touch()
    looked = f"looked in {here} and {here.parent / 'script'}"
    near = "nearest: config/train_tale.py, config/eval.py"
    assert mistake("config/train_tal.py") == f"config/train_tal.py: no such config file; {looked}; {near}"
    assert mistake("") == f"'': no such config file; {looked}; {near}"


def test_a_folder_is_not_a_config_file(here):
    looked = f"looked in {here} and {here.parent / 'script'}"
    assert mistake("config") == f"config: a folder, expected a config file; {looked}"


def test_the_message_about_an_unreadable_file_gives_the_reason(monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert mistake("a.py", a="seed = 1") == "a.py: cannot be read: Permission denied"


NAMES = st.sampled_from([*Settings.__dataclass_fields__, "batch-size", "zzz", "", "_x", "if"])
VALUES = st.sampled_from(["1", "0", "1e400", "nan", "9" * 5000, "None", "'a'", "True", "[]", "1/0", "x", "", "("])
ARGUMENTS = st.one_of(
    st.text(),
    st.builds("{}{}={}".format, st.sampled_from(["--", "-", ""]), NAMES, st.one_of(VALUES, st.text())),
    st.builds("--{}".format, NAMES),
    st.sampled_from(["any.py", "config", "--", "\0", "x" * 5000]),
)
LINES = st.one_of(
    st.builds("{}{} = {}".format, st.sampled_from(["", " ", "if 1: ", "x = "]), NAMES, VALUES).map(str.encode),
    st.binary(max_size=6).map(lambda junk: b"seed = b'" + junk),
    st.sampled_from([b"\0", b"\xff", b"\xef\xbb\xbf", b"from math import *", b"raise SystemExit", b"del seed"]),
)
QUIET = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUIET
@given(st.lists(ARGUMENTS, max_size=4), st.lists(LINES, max_size=4).map(b"\n".join))
def test_any_command_line_and_any_config_file_end_in_settings_or_one_line(argv, text):
    for arguments in (argv, ["any.py", *argv]):
        try:
            assert isinstance(load(*arguments, any=text), Settings)
        except UserError as error:
            assert len(str(error).splitlines()) == 1


# --- several words ---


@dataclass(frozen=True)
class Several(Shared):
    input: Words = ()  # files, "-" is standard input
    unwrap: bool = True  # join lines


def load_several(*argv):
    return load_settings(Several, list(argv), script_folder=Path("../script"))


def test_options_and_words_add_up_in_the_order_given():
    settings = load_several("my book.txt", "--input=b=c.epub", "--unwrap=False", "https://a.org/x?y=z", "-")
    assert settings.input == ("my book.txt", "b=c.epub", "https://a.org/x?y=z", "-") and not settings.unwrap
    assert load_several().input == ()


def test_a_word_that_ends_with_py_is_a_config_file():
    Path("a.py").write_text("input = ['x.txt', 'y.txt']")
    assert load_several("a.py", "z.txt").input == ("x.txt", "y.txt", "z.txt")
    Path("a.py").write_text("input = 'x.txt'")
    assert load_several("a.py").input == ("x.txt",)
    with pytest.raises(UserError, match="^b.py: no such config file"):
        load_several("b.py")


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("", "'': expected text (may be repeated), for example --input=my_book.txt"),
        ("--input=", "--input=: expected text (may be repeated), for example --input=my_book.txt"),
        ("unwrap=False", "unwrap=False: expected --key=value; type --unwrap=False"),
        ("--unwrap", "--unwrap: expected --key=value; type --unwrap=True"),
        ("--inptu=x", "--inptu=x: no setting inptu; type --input=x"),
        ("-x", "-x: no setting x; --help lists the settings"),
    ],
)
def test_a_mistake_beside_words_has_its_line(argument, line):
    with pytest.raises(UserError) as caught:
        load_several("a.txt", argument)
    assert str(caught.value) == line


def test_help_names_the_words():
    text = help_text(Several, None, "byheart prepare", {"input": ("a.txt", "b c.txt")}, "a.txt 'b c.txt'")
    assert text.startswith("usage: byheart prepare [input ...] [config/file.py ...] [--key=value ...]\n")
    assert "\nWords that are neither config files (*.py) nor --key=value are values of input.\n" in text
    assert "\n  --input=a.txt --input='b c.txt'\n" in text


# --- help and commands ---


HELP = """\
Train a model.

usage: python train.py [config/file.py ...] [--key=value ...]
Config files and --key=value apply in the order given; the last one wins.

The defaults of all settings:

input and output
  --out_dir=out               text; where checkpoints go
  --note=None                 text or None; a remark
  --eval_only=False           true or false; evaluate and stop

numbers, in two comment lines
  --batch_size=12             int >= 1; sequences in a step
  --max_iters=600             int >= 1; steps in all
  --seed=1337                 int; of the random numbers
  --top_k=200                 int >= 0 or None; 0 = off
  --learning_rate=0.0006      float > 0; the highest
  --min_lr=None               float >= 0 or None; where the decay ends
  --dropout=0.0               float >= 0 and < 1; 0 = none
  --temperature=1.0           float; a default on three lines
  --device=cpu                text

machine
  --compile=auto              true, false or auto; torch.compile
"""


def test_help_lists_every_setting_under_its_heading_with_its_type_and_reason():
    assert help_text(Settings, "\nTrain a model.\n", "python train.py", {}) + "\n" == HELP


def test_help_lists_the_settings_of_a_config_file_first_with_their_values():
    Path("a.py").write_text("seed = 5\nout_dir = 'mine'\nbatch_size = 12")
    text = help_for(Settings, "Train a model.", "train.py", ["a.py", "--help", "--min_lr=0"])
    [start] = [part for part in text.split("\n\n") if part.startswith("Set by")]
    assert start.splitlines() == [
        "Set by a.py --min_lr=0:",
        "  --out_dir=mine              text, default out; where checkpoints go",
        "  --batch_size=12             int >= 1, default 12; sequences in a step",
        "  --seed=5                    int, default 1337; of the random numbers",
        "  --min_lr=0.0                float >= 0 or None, default None; where the decay",
        "                              ends",
    ]
    rest = text.partition("The defaults of all other settings:")[2]
    listed = text.count("\n  --"), rest.count("\n  --"), rest.count("--seed")
    assert listed == (len(Settings.__dataclass_fields__), len(Settings.__dataclass_fields__) - 4, 0)


def test_help_after_a_mistake_has_the_defaults_and_names_the_mistake():
    text = help_for(Settings, "Train a model.", "train.py", ["no.py", "--seed=1", "-h"])
    assert "mistake: no.py: no such config file" in " ".join(text.split()) and "--seed=1337" in text


@dataclass(frozen=True)
class Wordy:
    # a heading that is longer than eighty columns, for which a dataclass has to be quite unusually wordy, as is this
    a_setting_with_a_name_of_forty_characters: str = "default"  # a reason that is longer than the line has columns left
    short: int = 1  # a well-known reason, longer too, with a hyphen just where the line would otherwise be bro-ken


def test_help_fits_80_columns():
    doc = "A first line that is as long as the project's own lines of source may be, which is a hundred and twenty.\n"
    text = help_text(Wordy, doc + "\n    python a.py\n    python b.py\n", "a/long/path/to/the/script.py", {})
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[3:5] == ["    python a.py", "    python b.py"]  # commands are not joined
    assert lines[-6:] == [
        "  --a_setting_with_a_name_of_forty_characters=default",
        "                              text; a reason that is longer than the line has",
        "                              columns left",
        "  --short=1                   int; a well-known reason, longer too, with a",
        "                              hyphen just where the line would otherwise be",
        "                              bro-ken",
    ]


def test_help_without_the_source_lists_the_settings_without_reasons():
    made = {}
    exec("from dataclasses import dataclass\n@dataclass\nclass A:\n    size: int = 3  # lost\n", made)
    assert help_text(made["A"], None, "a.py", {}).splitlines()[-1].split() == ["--size=3", "int"]


def test_help_shows_a_default_that_is_a_newline_on_one_line():
    @dataclass
    class Sample:
        start: str = "\n"  # the prompt

    assert help_text(Sample, None, "a.py", {}).splitlines()[-1].split() == ["--start='\\n'", "text;", "the", "prompt"]


def test_a_command_can_be_typed_in_the_current_folder(monkeypatch):
    package = Path(configurator.__file__).parent
    monkeypatch.chdir(package)
    typed = command("train.py", "config/train_tale.py", "--out_dir=out tale")
    assert typed == "python train.py config/train_tale.py --out_dir='out tale'"
    monkeypatch.chdir(package.parent)
    assert command("train.py", "--seed=1") == "python llm/train.py --seed=1"


# --- scripts ---

SCRIPT = '''"""A script."""
import sys
from dataclasses import dataclass
from llm.configurator import UserError, run_script

@dataclass(frozen=True)
class Settings:
    how: str = "ä"  # how to end

def main(settings):
    if settings.how == "mistake":
        raise UserError("two\\nlines")
    if settings.how == "interrupt":
        raise KeyboardInterrupt
    print(settings.how)
    if settings.how == "much":
        while True:
            print("x" * 1000)
    return 7 if settings.how == "seven" else None

if __name__ == "__main__":
    run_script(main, Settings, __doc__)
'''


def start(*argv):
    """A process of the script above, with an encoding that knows no letter but ASCII."""
    Path("say.py").write_text(SCRIPT, encoding="utf-8")
    root = str(Path(configurator.__file__).parent.parent)
    environment = {"PYTHONPATH": root, "PYTHONIOENCODING": "ascii", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "say.py", *argv]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


@pytest.mark.parametrize(
    ("argument", "status", "out", "err"),
    [
        ("--how=ö", 0, "ö\n", ""),
        ("--how=seven", 7, "seven\n", ""),
        ("--how=mistake", 1, "", "say.py: error: two lines\n"),
        ("--who=me", 1, "", "say.py: error: --who=me: no setting who; type --how=me\n"),
        ("--how=interrupt", 130, "", "\n"),
    ],
)
def test_a_script_ends_with_this_status_and_output(argument, status, out, err):
    process = start(argument)
    written = [text.decode().replace("\r\n", "\n") for text in process.communicate()]
    assert (process.returncode, *written) == (status, out, err)


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--zzz=1", "no.py", "--help"]])
def test_help_is_printed_whatever_the_other_arguments_are(argv):
    process = start(*argv)
    out, err = process.communicate()
    lines = out.decode().splitlines()
    assert (process.returncode, err) == (0, b"")
    assert (lines[0], lines[-1].split()) == ("A script.", ["--how='ä'", "text;", "how", "to", "end"])


def test_a_script_is_quiet_when_the_reader_of_its_output_leaves():
    with start("--how=much") as process:
        assert process.stdout.readline() == b"much\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_configurator_does_not_load_a_slow_library():
    code = "import sys, llm.configurator; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    environment = {"PYTHONPATH": str(Path(configurator.__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_control_characters_of_an_error_are_shown_and_not_sent(monkeypatch, capsys):
    """A server's reason phrase, or a name in a file, could write anything into the terminal."""

    def main(settings):
        raise UserError("404 \x1b[31mPWNED\x1b]0;t\x07 \udcff\x9b, naïve\xa0書 👩\u200d🚀\ttab")

    monkeypatch.setattr(sys, "argv", ["x.py"])
    assert configurator.exit_status(main, Shared, "doc") == 1
    shown = r"x.py: error: 404 \x1b[31mPWNED\x1b]0;t\x07 \udcff\x9b, naïve"
    assert capsys.readouterr().err == shown + "\xa0書 👩\u200d🚀\ttab\n"
