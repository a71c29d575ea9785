"""Every model of the zoo to every format that can be written, each conversion proven: `make zoo`.

    python -m benchmarks.zoo [--only PATTERN] [--quick] [--fresh] [--again] [--timeout S]

Rows are the model files in TIGHTSHIP_DATA and the networks of `examples`; columns are the table of formats. Each cell
runs in a process of its own, so that a crash or a hang is one cell. `results/zoo.json` is written after each, a second
run goes on where the first ended, and `docs/zoo.md` is written from it.
"""
