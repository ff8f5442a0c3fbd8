"""A ``PythonExecutor`` for smolagents: what a ``CodeAgent`` writes runs in a VM.

Variables stay from step to step, and a step that fails leaves nothing behind.
"""

import json
from typing import Any

from smolagents import CodeAgent, LogLevel, OpenAIModel, PythonExecutor, Tool, tool
from smolagents.local_python_executor import CodeOutput
from smolagents.tools import get_tools_definition_code

from mulligan import Vm
from scripted_model import MODEL, ScriptedModel

FINAL_ANSWER = """
class FinalAnswer(BaseException):
    pass

def final_answer(answer):
    import json
    raise FinalAnswer(json.dumps(answer))
"""
MARK = "FinalAnswer: "


class MulliganExecutor(PythonExecutor):
    """Runs an agent's code in the kernel "main" of a VM.

    Tools run in the VM too, as code: they must be whole by themselves, and can reach nothing that
    the VM cannot. Final answers and variables are what JSON can hold.
    """

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    def send_tools(self, tools: dict[str, Tool]) -> None:
        self(FINAL_ANSWER)
        own = {name: each for name, each in tools.items() if name != "final_answer"}
        if own:
            self(get_tools_definition_code(own))

    def send_variables(self, variables: dict[str, Any]) -> None:
        for name, value in variables.items():
            self(f"import json; {name} = json.loads({json.dumps(json.dumps(value))})")

    def __call__(self, code_action: str) -> CodeOutput:
        result = self.vm.run(code_action, kernel="main")
        if result.exit_code == 0 and not result.error:
            return CodeOutput(result.result, result.stdout, is_final_answer=False)
        *_, last = result.stderr.splitlines() or [""]
        if last.startswith(MARK):
            answer = json.loads(last.removeprefix(MARK))
            return CodeOutput(answer, result.stdout, is_final_answer=True)
        self.vm.rollback(result)
        raise RuntimeError(
            f"{result.error or ''}{result.stderr[-4000:]}"
            "All that this step did, to files and variables, was taken back."
        )


@tool
def celsius(fahrenheit: float) -> float:
    """Converts a temperature.

    Args:
        fahrenheit: the temperature in degrees Fahrenheit
    """
    return (fahrenheit - 32) / 1.8


SCRIPT = [
    "Thought: convert.\n<code>\nreadings = [celsius(f) for f in (32, 50, 68)]\nreadings\n</code>",
    "Thought: sum.\n<code>\nwhile readings:\n    total += readings.pop()\n</code>",
    "Thought: it all came back.\n<code>\nfinal_answer(sum(readings) / len(readings))\n</code>",
]

if __name__ == "__main__":
    with ScriptedModel(SCRIPT) as server, Vm("smolagents") as vm:
        # Yours: OpenAIModel("…"), InferenceClientModel() or another.
        model = OpenAIModel(MODEL, api_base=server.url, api_key="none")
        executor = MulliganExecutor(vm)
        with CodeAgent([celsius], model, executor=executor, verbosity_level=LogLevel.OFF) as agent:
            print("answer:", agent.run("What is the mean temperature?"))
            for step in agent.memory.steps[1:-1]:
                print(step.error.message if step.error else step.observations)
