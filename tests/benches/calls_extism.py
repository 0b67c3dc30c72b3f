"""Calls a plugin of extism's again and again, fresh each time or reused, and prints how often a second.

Arguments: the plugin's file, how many bytes it is given, how many calls, and `fresh` (a plugin made of the file each time), `compiled` (made
of what was compiled once) or `reused` (the same one). Run by the benchmark `embed`, which gives each
the same processor.
"""

import sys
import time

import extism


def main():
    plugin, size, calls, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with open(plugin, "rb") as file:
        wasm = file.read()
    text = b"x" * size
    compiled = extism.extism.CompiledPlugin(wasm, wasi=False)
    reused = extism.Plugin(compiled)
    plugins = {
        "fresh": lambda: extism.Plugin(wasm, wasi=False),
        "compiled": lambda: extism.Plugin(compiled),
        "reused": lambda: reused,
    }

    def call():
        return plugins[mode]().call("run", text)

    assert len(call()) == size
    started = time.perf_counter()
    for _ in range(calls):
        call()
    print(calls / (time.perf_counter() - started))


main()
