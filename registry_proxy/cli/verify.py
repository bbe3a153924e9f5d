def verify() -> None: "stub"
