def check() -> None: "stub"
