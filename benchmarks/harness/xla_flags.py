"""What XLA is told where programs are many and small: tests, and benchmarks at their smallest. Loads nothing."""

import importlib.metadata


def xla_flags() -> str:
    """The value of XLA_FLAGS with which programs compile quickly; to be set before JAX is loaded."""
    # XLA cuts every program into parts and compiles them side by side: for small ones that is a quarter more work.
    flags = ["--xla_cpu_parallel_codegen_split_count=1"]
    # One way of emitting loops takes three times as long to compile, and keeps a second core busy. Only these versions
    # can do without, and a flag that is unknown ends the process.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
