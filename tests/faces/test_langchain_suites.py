"""LangChain's own suites on both faces, against the real local server. Nothing beyond loopback can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, ToolsUnitTests

from dynflow import loads
from dynflow.chat_model import FlowChatModel
from tests.faces.graphs import ONE_MODEL

pytest.importorskip("litellm")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # litellm uses what pydantic is about to drop
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning"),
]


class TestChatUnit(ChatModelUnitTests):
    """The chat face, without a call."""

    @property
    def chat_model_class(self) -> type[FlowChatModel]:
        return FlowChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"flow": loads(ONE_MODEL.format(url="http://127.0.0.1:9/v1"))}

    @pytest.mark.xfail(reason="LangChain's `load` takes others' classes only by name; test_chat_model names them")
    def test_serdes(self, model: BaseChatModel, snapshot: Any) -> None:
        super().test_serdes(model, snapshot)


class TestChat(ChatModelIntegrationTests):
    """The chat face of a graph of one model, which the real server runs; see `tests.tool_peer` for its tools."""

    @pytest.fixture(autouse=True)
    def _flow(self, smollm2_with_tools: str) -> Iterator[None]:
        self.flow = loads(ONE_MODEL.format(url=smollm2_with_tools))
        yield
        self.flow.close()

    @property
    def chat_model_class(self) -> type[FlowChatModel]:
        return FlowChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"flow": self.flow}

    @property
    def supports_model_override(self) -> bool:
        return False  # which model answers is for the graph to say

    @property
    def supports_json_mode(self) -> bool:
        return True

    @pytest.mark.xfail(reason="SmolLM2-135M does not fill two named keys without a schema that binds it to them")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)


class TestToolUnit(ToolsUnitTests):
    """The tool face, without a call."""

    @property
    def tool_constructor(self) -> Any:
        return loads(ONE_MODEL.format(url="http://127.0.0.1:9/v1")).to_tool()

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"question": "How many legs has a spider?"}


class TestTool(ToolsIntegrationTests):
    """The tool face of the same graph."""

    @pytest.fixture(autouse=True)
    def _flow(self, smollm2_server: str) -> Iterator[None]:
        self.flow = loads(ONE_MODEL.format(url=smollm2_server))
        yield
        self.flow.close()

    @property
    def tool_constructor(self) -> Any:
        return self.flow.to_tool()

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"question": "How many legs has a spider?"}
