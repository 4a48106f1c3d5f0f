"""The error of a text that does not compile."""


class CompileException(Exception):  # noqa: N818
    def __init__(self, msg, source, name, options, backend="nvrtc"):
        super().__init__(msg)
        self.source, self.name, self.options, self.backend = source, name, options, backend

    def get_message(self):
        return str(self)
