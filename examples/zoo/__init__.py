"""Networks of every kind that a converter meets: written ones with random weights, and definitions of published ones.

    tightship convert examples.zoo.images:resnet18 -o resnet18.onnx

Each is a function without arguments that returns the module and its example inputs. `benchmarks/zoo.py` runs them all.
"""
