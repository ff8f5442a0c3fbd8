"""The same loop, streamed: the model's words as they come, and the program's output as it comes."""

import json

from openai import OpenAI

from mulligan import Vm, VmExecutionError
from openai_loop import TOOLS
from scripted_model import MODEL, Call, ScriptedModel


def run_code(vm: Vm, code: str, language: str) -> str:
    printed = ""
    exit_code = None
    for event in vm.stream(code, language, kernel="main" if language == "python" else None):
        if event.text:
            print(event.text, end="", flush=True)
            printed += event.text
        if event.error:
            return f"error: {event.error.message}"
        if event.result:
            exit_code = event.result.exit_code
            printed += event.result.result or ""
    return f"exit code {exit_code}\n{printed[-4000:]}"


def undo(vm: Vm) -> str:
    vm.rollback()
    return "Taken back."


def call_tool(vm: Vm, name: str, arguments: str) -> str:
    try:
        return {"run_code": run_code, "undo": undo}[name](vm, **json.loads(arguments))
    except (VmExecutionError, KeyError, TypeError, ValueError) as error:
        return f"error: {error}"


def agent(client: OpenAI, model: str, vm: Vm, task: str, most_turns: int = 10) -> None:
    messages = [{"role": "user", "content": task}]
    for _ in range(most_turns):
        with client.chat.completions.stream(model=model, messages=messages, tools=TOOLS) as stream:
            for event in stream:
                if event.type == "content.delta":
                    print(event.delta, end="", flush=True)
        message = stream.get_final_completion().choices[0].message
        messages.append(message.to_dict(mode="json"))
        if not message.tool_calls:
            print()
            return
        for call in message.tool_calls:
            said = call_tool(vm, call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": said})


SCRIPT = [
    Call("run_code", {"language": "bash", "code": "for i in 1 2 3; do echo step $i; done"}),
    lambda messages: f"It printed {messages[-1]['content'].count('step')} lines.",
]

if __name__ == "__main__":
    with ScriptedModel(SCRIPT) as server, Vm("openai-streaming") as vm:
        client = OpenAI(base_url=server.url, api_key="none")
        agent(client, MODEL, vm, "Count to three.")
