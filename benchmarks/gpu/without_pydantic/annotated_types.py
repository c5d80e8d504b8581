"""The bounds of the config's keys, which are not checked here: see pydantic.py beside this file."""


class _Bound:
    def __init__(self, value: object) -> None:
        self.value = value


class Ge(_Bound): ...


class Gt(_Bound): ...


class Le(_Bound): ...


class Lt(_Bound): ...


class MinLen(_Bound): ...
