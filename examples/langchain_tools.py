"""Tools for LangChain, and LangGraph's agents, which take the same: run code, take it back."""

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, ToolException, tool

from mulligan import Vm, VmExecutionError


def mulligan_tools(vm: Vm) -> list[BaseTool]:
    """``run_code`` and ``undo`` in one VM."""

    @tool
    def run_code(code: str, language: str = "python") -> str:
        """Runs python, bash, javascript or rust in your VM. Files and Python's variables stay."""
        try:
            result = vm.run(code, language, kernel="main" if language == "python" else None)
        except VmExecutionError as error:
            raise ToolException(str(error)) from error
        printed = result.stdout + result.stderr + (result.result or "")
        return f"exit code {result.exit_code}\n{printed[-4000:]}"

    @tool
    def undo() -> str:
        """Takes files and variables back to before the last run_code that changed something."""
        try:
            vm.rollback()
        except VmExecutionError as error:
            raise ToolException(str(error)) from error
        return "Taken back."

    tools: list[BaseTool] = [run_code, undo]
    for each in tools:
        each.handle_tool_error = True  # the model is told, and can do better
    return tools


def agent(model: Runnable, tools: list[BaseTool], task: str, most_turns: int = 10) -> str:
    """The loop; ``langchain.agents.create_agent(model, tools)`` is one, too."""
    by_name = {each.name: each for each in tools}
    messages: list[BaseMessage] = [HumanMessage(task)]
    for _ in range(most_turns):
        answer = model.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return str(answer.content)
        for call in answer.tool_calls:
            messages.append(by_name[call["name"]].invoke(call))
            print(f"{call['name']}: {messages[-1].content.splitlines()}")
    return f"no answer after {most_turns} turns"


def _call(number: int, name: str, **arguments: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call_{number}"}])


SCRIPT = [
    _call(1, "run_code", code="echo 'rate = 7' > config; ls", language="bash"),
    _call(2, "run_code", code="rm config; ls", language="bash"),
    _call(3, "undo"),
    _call(4, "run_code", code="open('config').read()"),
    _call(5, "run_code", code="import antigravity(", language="python"),
    AIMessage("The configuration is back."),
]

if __name__ == "__main__":
    # Yours: ChatOpenAI(model=…).bind_tools(tools), or any other chat model.
    with Vm("langchain") as vm:
        scripted = GenericFakeChatModel(messages=iter(SCRIPT))
        print(agent(scripted, mulligan_tools(vm), "Look after the configuration."))
