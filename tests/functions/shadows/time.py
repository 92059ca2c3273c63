raise ImportError("a module built into the interpreter is never shadowed")
