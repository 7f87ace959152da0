"""What must hold whatever comes in: hostile files, payloads, mutated input, properties over whole classes of it."""
