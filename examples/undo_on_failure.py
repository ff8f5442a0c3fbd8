"""Undo on failure: a step breaks files and variables, is taken back, and the work goes on."""

from mulligan import Vm

STEPS = [
    "import json\nstock = {'apples': 3, 'pears': 5}\njson.dump(stock, open('stock.json', 'w'))",
    # Writes half of a file, loses the data it was made from, and fails.
    "open('stock.json', 'w').write('{\"apples\"')\nstock.clear()\nstock['apples'] += 1",
    "stock['apples'] += 1\njson.dump(stock, open('stock.json', 'w'))",
]


def careful(vm: Vm, code: str) -> bool:
    """Runs a step; one that fails has never happened."""
    result = vm.run(code, kernel="main")
    if result.exit_code == 0:
        return True
    print("failed:", result.stderr.splitlines()[-1])
    for entry in vm.diff().entries:
        print("taken back:", entry.change, entry.path)
    vm.rollback(result)
    return False


if __name__ == "__main__":
    with Vm("undo-on-failure") as vm:
        for step in STEPS:
            careful(vm, step)
            print("variables:", vm.run("stock", kernel="main").result)
            print("file:     ", vm.run("cat stock.json", "bash").stdout)
