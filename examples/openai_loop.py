"""An agent loop with the ``openai`` package: the model runs code and takes back what went wrong."""

import json

from openai import OpenAI

from mulligan import Vm, VmExecutionError
from scripted_model import MODEL, Call, ScriptedModel

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "run_code",
            "description": "Runs code in your VM. Files stay, and so do Python's variables.",
            "parameters": {
                "type": "object",
                "properties": {
                    "code": {"type": "string"},
                    "language": {"enum": ["python", "bash", "javascript", "rust"]},
                },
                "required": ["code", "language"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "undo",
            "description": "Takes files and variables back to before the last run_code that "
            "changed something. Called again, one further back.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]


def run_code(vm: Vm, code: str, language: str) -> str:
    result = vm.run(code, language, kernel="main" if language == "python" else None)
    printed = result.stdout + result.stderr + (result.result or "")
    return f"exit code {result.exit_code}\n{printed[-4000:]}"


def undo(vm: Vm) -> str:
    vm.rollback()
    return "Taken back."


def call_tool(vm: Vm, name: str, arguments: str) -> str:
    """What a tool says. What is wrong is said to the model, which can do better."""
    try:
        return {"run_code": run_code, "undo": undo}[name](vm, **json.loads(arguments))
    except (VmExecutionError, KeyError, TypeError, ValueError) as error:
        return f"error: {error}"


def agent(client: OpenAI, model: str, vm: Vm, task: str, most_turns: int = 10) -> str:
    messages = [{"role": "user", "content": task}]
    for _ in range(most_turns):
        answer = client.chat.completions.create(model=model, messages=messages, tools=TOOLS)
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content or ""
        for call in message.tool_calls:
            said = call_tool(vm, call.function.name, call.function.arguments)
            print(f"{call.function.name}: {said.splitlines()}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": said})
    return f"no answer after {most_turns} turns"


SCRIPT = [
    Call("run_code", {"language": "python", "code": "prices = [3, 4, 5]\nsum(prices)"}),
    Call("run_code", {"language": "python", "code": "prices.clear()\nsum(prices) / len(prices)"}),
    Call("undo", {}),
    Call("run_code", {"language": "python", "code": "sum(prices) / len(prices)"}),
    lambda messages: f"The mean is {messages[-1]['content'].split()[-1]}.",
]

if __name__ == "__main__":
    with ScriptedModel(SCRIPT) as server, Vm("openai-loop") as vm:
        # Yours: OpenAI(), and the name of a model in place of MODEL.
        client = OpenAI(base_url=server.url, api_key="none")
        print(agent(client, MODEL, vm, "What is the mean of 3, 4 and 5?"))
