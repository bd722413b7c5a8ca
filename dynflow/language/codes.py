"""Every code that a problem can have: what it means and how to mend it. Codes are stable, scripts depend on them."""

from __future__ import annotations

CODES: dict[str, str] = {
    # The text
    "not_text": "The file is not UTF-8 text. Save it as UTF-8.",
    "too_large": "The file is larger than a graph may be. Split it into sub-graphs.",
    "no_file": "There is no such file, or it cannot be read. Check the path and its permissions.",
    "syntax": "The text is not YAML. Look at the place shown: indent with blanks, close quotes and brackets, "
    "and quote a "
    "`when` that holds `, [ ] { } #` or `: `, or begins with a quote, `!` or `*`.",
    "flow_reference": "Inside `{…}` or `[…]` YAML cannot hold an unquoted `${…}`. Use block style, or quote the "
    "reference.",
    "tag": "YAML tags (`!…`) are not part of the language. Remove the tag; quote a `when` that begins with `!`.",
    "duplicate_key": "A key is given twice in one mapping. Keep one, or join the two.",
    "bad_key": "A key is a list, a mapping or an alias. Write it as plain text.",
    "bad_merge": "`<<` is given something else than a mapping. Give it an alias of a mapping, or a list of these.",
    "unknown_anchor": "An alias (`*…`) names no anchor that stands before it. Define the anchor first, or quote "
    "the text.",
    "alias_bomb": "Aliases expand to too many values, or to themselves. Use fewer, or write the values out.",
    "too_deep": "The text is nested deeper than any graph needs. Flatten it.",
    "many_documents": "The file holds more than one YAML document. Remove the second `---`, or make two files.",
    "not_a_graph": "The file holds something else than a mapping. Begin with `version: 1`, `nodes:` and `edges:`.",
    # Keys and values
    "version": "The version is not known here. Write `version: 1`, or install a newer dynflow.",
    "missing_key": "A key that must be given is missing. Add it.",
    "unknown_key": "A key is not part of the language here. Correct its spelling, or remove it; your own data "
    "goes under "
    "`x-…` at the top.",
    "wrong_type": "A value is of another type than its key takes. Give it as the message says; `yes` and `on` "
    "are text.",
    "bad_value": "A value is of the right type, yet not one that its key takes. Give one within the limits shown.",
    "too_few": "A list or mapping has too few entries. Add what is missing.",
    "bad_name": "A name is not allowed, or taken. Use small letters, digits and `_`, begin with a letter, and "
    "choose no "
    "reserved word.",
    # Nodes and models
    "unknown_type": "No installed package has this node type. Correct its spelling, or install the package that "
    "has it.",
    "broken_type": "The node type is registered, but its package cannot be loaded. Install what it needs.",
    "unknown_option": "The node type has no such option. Correct its spelling; `dynflow nodes TYPE` lists the options.",
    "exclusive_options": "Options that exclude each other are given together, or none of them is. Keep one.",
    "static_option": "An option that shapes the graph is given as a reference. Write the value itself.",
    "unknown_provider": "There is no such provider of models. Correct its spelling; `dynflow models` lists them.",
    "unknown_model": "A node names a model that is not declared. Declare it under `models:`, or correct the name.",
    "unknown_node": "There is no node of this name. Correct the name, or add the node.",
    "unknown_param": "The sub-graph has no param of this name. Correct the name, or declare it in the sub-graph.",
    "unknown_runnable": "The host handed over no runnable of this name. Pass it in `load(…, runnables={…})`.",
    "wrong_role": "A node of the other role is wanted here. Name another node, or set its `role:`.",
    "on_failure": "`on_failure` is for signals. Handle an answer's failure with an edge `when: <node>.failed`.",
    "bad_template": "A template holds braces that are no placeholder. Write `{name}`, and `{{` and `}}` for braces.",
    "unknown_placeholder": "A template names a placeholder that `with:` does not give. Add it, or correct the name.",
    "bad_schema": "`output` is not a JSON schema. Correct it as the message says.",
    "bad_bands": "A router's bands do not fit its routes. Give ascending bounds, one fewer than routes; `unsure` takes "
    "two.",
    "uncovered_label": "A label that can come has no route. Add it to `labels:`, or name a route for it by `abstain:`.",
    "uncovered_route": "A router's objective has no predicted quality of a route. Add it under `quality:`.",
    "named_twice": "The same name stands in a list twice. Remove one.",
    "two_groups": "A node is a member of two groups. Remove it from one.",
    "nested_group": "A group is a member of a group. Name its members, or put one group after the other.",
    "subgraph": "The graph that a node uses cannot be used. The message says where it is looked for, or what is "
    "wrong in it.",
    # References
    "reference_syntax": "A `${…}` is not a reference. Write `${node.port}`, `${params.name}`, `${input.key}`, "
    "`${a.port ?? b.port}` or `${env:NAME}`, as the whole value.",
    "reference_place": "A reference stands where none may. Write the value; references belong in options of "
    "nodes, and "
    "`${env:…}` under `models:`.",
    "environment_reference": "`${env:…}` stands in a node. Move it under `models:`, where secrets and addresses sit.",
    "reads_fellow": "A node reads itself, or a member of its group. Read a node that ran before.",
    "not_certain": "The node that is read need not have succeeded by then. Route so that it has, or end the "
    "reference with "
    "a last resort: `${a.port ?? input.text}`.",
    # Conditions
    "unknown_name": "A condition or reference names something that is no node. Correct the name.",
    "unknown_port": "The node has no such port. Correct the name; `dynflow nodes TYPE` lists the ports.",
    "type_mismatch": "A value of one type stands where another is wanted. Compare or pass values of one type.",
    "not_in_enum": "A value is none of the closed set that the port can have. Use one of the set.",
    "not_boolean": "A condition is no truth value. Compare it with something.",
    "expression_syntax": "A condition cannot be read. Write comparisons, joined by `and`, `or`, `not`, on one line.",
    "expression_name": "A name stands alone in a condition. Write `node.port` or `params.name`, and `true false "
    "null` in "
    "small letters.",
    "expression_not_allowed": "A condition holds what is not part of the language. Use comparisons, `and or not in`, "
    "`+ - * /`, numbers, strings, `len min max abs`.",
    "expression_too_long": "A condition is too long or too deep. Split it over several edges.",
    # Edges and shape
    "edge_direction": "An edge leads to `start`, or leaves `end`. Name a node there.",
    "member_edge": "An edge goes to or from a member of a group. Name the group.",
    "no_start": "No edge leaves `start`. Add `- {from: start, to: <first node>}`.",
    "no_default": "A node's edges may all be passed over. End them with one that has no `when`.",
    "two_defaults": "A node has two edges without `when`. Give one of them a condition.",
    "after_default": "An edge stands after the default edge of its node and is never looked at. Move it up.",
    "cycle": "The edges run in a circle. A second try is a second node: add one.",
    "unreachable": "No path from `start` leads to the node. Add an edge to it, or remove it.",
    "dead_end": "No path leads from the node to `end`. Add an edge on.",
    "no_answer": "`end` can be reached without an answer that succeeded. Route through an answer, or add "
    "`and <answer>.ok` to the condition.",
    "baseline": "The baseline is a signal. Name an answer.",
    "no_baseline": "`baseline_share` is set and the graph names no baseline. Add `baseline:` with an answer, or remove "
    "`baseline_share`.",
    # Warnings
    "unhandled_failure": "A signal can fail, and nothing handles it: the request fails too. Add `on_failure:`, "
    "or an edge "
    "`when: <node>.failed`.",
    "literal_secret": "A key stands in the file itself, and so in every copy of it. Write `${env:NAME}`.",
    "unknown_price": "A limit in USD is set and nothing says what a model costs, so every call of it will be refused. "
    "Give it a `price:`.",
    "missing_environment": "An environment variable is not set: the model fails until it is. Export it.",
    "mixed_answers": "The answers are of different types, so the graph cannot stand in for a chat model. Make "
    "them alike, "
    "or use it as a runnable.",
    "calibration": "The calibration file beside the graph was made for another graph, or is damaged, and is not "
    "applied. Calibrate again, or delete it.",
    "drift": "New requests score otherwise than those that the graph was calibrated on: the promise may not hold for "
    "them. Calibrate again, on requests like these.",
    "unused": "A model, param or placeholder is declared and never read. Remove it, or use it.",
}
"""Code → what is wrong, then how to mend it."""
