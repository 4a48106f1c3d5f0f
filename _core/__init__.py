"""The compiled core: the tape (`tape`), and kernels over arrays (`kernels`). Knows arrays, not cells."""
