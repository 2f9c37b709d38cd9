"""Flags that every benchmark takes. A set of their own: modes and other commands may use the same names."""

from absl import flags

OPTIONS = flags.FlagValues()

flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.", flag_values=OPTIONS)
flags.DEFINE_string("vs", None, "A program that prints the same JSON, measured in turn with ours.", flag_values=OPTIONS)
flags.DEFINE_integer(
    "rounds", 3, "How often our program and --vs are each measured.", lower_bound=1, flag_values=OPTIONS
)
flags.DEFINE_integer("repeats", 20, "Timed repetitions after warm-up.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer(
    "warmup", 3, "Untimed repetitions before them; the first compiles.", lower_bound=1, flag_values=OPTIONS
)
flags.DEFINE_string("hlo", None, "A .gz file for the compiled step's HLO text (mode step).", flag_values=OPTIONS)
flags.DEFINE_bool(
    "compile_only", False, "Fill the compilation cache, measure nothing (mode step).", flag_values=OPTIONS
)
flags.DEFINE_string("trace", None, "Folder for a profiler trace of three repetitions.", flag_values=OPTIONS)
flags.DEFINE_string("platform", None, "cpu, cuda or tpu: the backend; default what JAX finds.", flag_values=OPTIONS)
