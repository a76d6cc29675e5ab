"""Compiling a Triton kernel for a Hopper GPU. Needs no GPU: Triton brings its own assembler."""

import pytest


def compile_for_hopper(kernel, types, constants, aligned=(), **options):
    """The compiled kernel: `types` of its arguments but for the `constants`; `aligned` ones are multiples of 16."""
    triton = pytest.importorskip("triton")
    if "nvidia" not in triton.backends.backends or triton.knobs.runtime.interpret:
        pytest.skip("this Triton cannot compile for NVIDIA")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.metadata.shared <= 227 * 1024  # bytes a Hopper block may have
    return compiled
