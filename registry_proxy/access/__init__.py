"""Who may read what: proofs that an upstream gives a blob to a client, and the verdicts drawn from them."""
