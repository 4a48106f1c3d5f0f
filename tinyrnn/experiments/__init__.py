"""What the lectures claim, as experiments that anyone can run; `tinyrnn.cli` makes commands of them."""
