"""NVRTC, CUDA's run-time compiler, which CuPy brings to machines without a GPU too (pip install 'tinyrnn[nvrtc]')."""


def compile_with_nvrtc(source: str, arch: str, name: str) -> bytes:
    """Compile device text as cupy.RawModule does: for sm_80 and the like to a cubin, for compute_80 to PTX.

    `name` stands for the text in messages. Raises cupy.cuda.compiler.CompileException with NVRTC's log.
    """
    from cupy.cuda import compiler

    program = compiler._NVRTCProgram(source, name, method="cubin" if arch.startswith("sm_") else "ptx")
    options = "-std=c++17", "-ftz=true", "--device-as-default-execution-space", f"--gpu-architecture={arch}"
    return program.compile(options)[0]
