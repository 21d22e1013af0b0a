"""Renders published chat templates and cases of the language with fulgur and with jinja2; texts and refusals must agree.

usage: chat_templates_jinja.py FULGUR FORMATS.tar.xz   exit 77 (skipped) where jinja2 or the archive is missing.

The reference is jinja2 in the environment that transformers documents for chat templates: the immutable sandbox with
trim_blocks, lstrip_blocks and loop controls, `tojson` as plain json.dumps, `raise_exception`, `strftime_now`, and
`generation` blocks that only mark their body.
"""

import concurrent.futures
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

try:
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox
except ImportError:
    print("skipped: the Python package jinja2 is not installed")
    sys.exit(77)

class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: the body, in a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

    def body(self, caller):
        return caller()


def environment():
    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                        extensions=[Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return made


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather <now> & \"later\" at a place, 天气",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "The city's name"},
            "days": {"type": "integer", "description": "How many", "default": 3, "minimum": 1},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "where": {"type": ["number", "null"], "description": "latitude"}}}}},
    {"type": "function", "function": {
        "name": "add", "description": "Adds numbers.", "strict": True,
        "parameters": {"type": "object", "properties": {
            "numbers": {"type": "array", "items": {"type": "number"}, "minItems": 1},
            "options": {"type": "object", "description": "more", "properties": {"exact": {"type": "boolean"}},
                        "additionalProperties": False},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "one of two"}},
            "required": ["numbers", "options"]},
        "return": {"type": "number", "description": "the sum"}}},
    {"type": "function", "function": {"name": "now", "description": "The time",
                                      "parameters": {"type": "object", "properties": {}}}},
]

SIMPLE_TOOLS = [{"type": "function", "function": {
    "name": "get_time", "description": "The time at a place", "parameters": {
        "type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "The city"}, "hours": {"type": "integer", "description": "ahead"}}},
    "return": {"type": "string", "description": "hours and minutes"}}}]
FUNCTIONS = {"functions": json.dumps(SIMPLE_TOOLS), "datetime": "2026-01-02"}

USER = message("user", "What's the weather in Paris?")
CALLED = [
    message("system", "Use tools."), USER,
    message("assistant", "", tool_calls=[call("get_weather", {"city": "Paris", "days": 2, "exact": True, "x": None,
                                                              "list": [1, 2.5, {"a": "b"}]})]),
    message("tool", "{\"temperature\": 21.5, \"sky\": \"clear\"}", tool_call_id="call00001", name="get_weather"),
    message("assistant", "It is 21.5 degrees."), message("user", "Thanks! And 1 + 1?")]

CONVERSATIONS = {
    "plain": {"messages": [message("user", "Hello, who are you?")]},
    "system": {"messages": [message("system", "You are a pirate.\nBe brief."), message("user", "  Hi there  \n")]},
    "turns": {"messages": [message("system", "Be kind."), message("user", "One"), message("assistant", "Two\n\nlines "),
                           message("user", "Three"), message("assistant", "Four"), message("user", "Five")]},
    "tools": {"messages": [message("system", "Use tools."), USER], "tools": TOOLS},
    "tool_result": {"messages": CALLED, "tools": TOOLS},
    "tool_text_arguments": {"messages": [
        USER, message("assistant", None, tool_calls=[call("get_weather", "{\"city\": \"Paris\"}")]),
        message("tool", "21.5", tool_call_id="call00001", name="get_weather")], "tools": TOOLS[:1]},
    "several_calls": {"messages": [
        message("user", "Both, please"),
        message("assistant", "Let me look.", tool_calls=[call("get_weather", {"city": "北京"}),
                                                         call("add", {"numbers": [1, 2], "options": {}}, "call00002")]),
        message("tool", "{\"temperature\": -3}", tool_call_id="call00001", name="get_weather"),
        message("tool", "3", tool_call_id="call00002", name="add")], "tools": TOOLS},
    "unicode": {"messages": [message("system", "你是一个乐于助人的助手。"),
                             message("user", "请用中文写一首诗 🌸 — naïve ĳ, \"quotes\", it's <b>&amp;</b>\t\u2028\x0b!"),
                             message("assistant", "床前明月光，\n疑是地上霜。"), message("user", "再来一首")]},
    "parts": {"messages": [message("system", parts("Be kind.")), message("user", parts("One", " and two")),
                           message("assistant", parts("Three")), message("user", parts("四"))]},
    "image_parts": {"messages": [message("user", [{"type": "image", "image": "cat.png"}, *parts("What is this?")])]},
    "empty": {"messages": [message("system", ""), message("user", ""), message("assistant", ""), message("user", "?")]},
    "reasoning": {"messages": [message("user", "2 + 2?"),
                               message("assistant", "4", reasoning_content="Two and two make four.\n", thinking="Easy."),
                               message("user", "3 + 3?"),
                               message("assistant", "<think>\nThree and three\n</think>\n\n6"), message("user", "4?")]},
    "no_prompt": {"messages": [message("user", "Hi"), message("assistant", "Hello!")], "add_generation_prompt": False},
    "ends_in_call": {"messages": CALLED[:3], "tools": TOOLS, "add_generation_prompt": False},
    "switches": {"messages": [message("user", "Hi")], "enable_thinking": False, "thinking": True,
                 "reasoning_effort": "high", "builtin_tools": ["python"],
                 "documents": [{"title": "A", "text": "B", "content": "C", "doc_id": 1}]},
    "wrong_order": {"messages": [message("assistant", "First"), message("assistant", "Second")]},
    "developer": {"messages": [message("developer", "Only rhymes."), message("user", "Hi")], "tools": TOOLS[:2]},
    "no_messages": {"messages": []},
    "turns_alone": {"messages": [message("user", "One"), message("assistant", "Two"), message("user", "Three")]},
    "simple_tools": {"messages": [message("system", "Use tools."), USER], "tools": SIMPLE_TOOLS, **FUNCTIONS},
    "simple_calls": {"messages": [
        USER, message("assistant", "", tool_calls=[call("get_time", {"city": "Paris", "hours": 1})]),
        message("tool", "12:30", tool_call_id="call00001", name="get_time"), message("assistant", "Half past twelve.")],
        "tools": SIMPLE_TOOLS, "add_generation_prompt": False, **FUNCTIONS},
    "functions": {"messages": [message("user", "Hi"), message("assistant", "Hello"), message("user", "What's new?")],
                  **FUNCTIONS},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def outcome(template, conversation):
    """The text, or what was raised."""
    given = {"tools": None, "documents": None, "add_generation_prompt": True, **TOKENS, **conversation}
    try:
        return environment().from_string(template).render(**given), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


class Comparison:
    def __init__(self, program, folder):
        self.program, self.folder, self.count = program, folder, 0
        self.environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}

    def ours(self, template, conversation, index):
        folder = pathlib.Path(self.folder, str(index))
        folder.mkdir()
        file, messages = folder / "template.jinja", folder / "messages.json"
        file.write_text(template, encoding="utf-8", newline="")
        messages.write_text(json.dumps({**TOKENS, **conversation}, ensure_ascii=False), encoding="utf-8")
        done = subprocess.run([self.program, "render", str(file), "--messages", str(messages)], capture_output=True,
                              env=self.environment)
        error = done.stderr.decode()
        if done.returncode not in (0, 2, 3) or (done.returncode and (done.stdout or error.count("\n") != 1)):
            sys.exit(f"exit {done.returncode}: {error}")
        return (done.stdout.decode() if done.returncode == 0 else None), error.replace(str(file), "template").strip()

    def all(self, cases):
        """For each (template, conversation): equal, both refuse, or (what differs)."""
        first = self.count
        self.count += len(cases)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda case: self.ours(*case[1], first + case[0]), enumerate(cases)))
        return [self.judged(outcome(*case), ours) for case, ours in zip(cases, results)]

    @staticmethod
    def judged(expected, ours):
        if expected[0] is None and ours[0] is None:
            return "refused", ours[1], expected[1]
        if expected[0] == ours[0]:
            return "equal", "", ""
        if ours[0] is None:
            return "unsupported" if "not supported" in ours[1] else "differs", ours[1], repr(expected[0][:200])
        if expected[0] is None:
            return "differs", repr(ours[0][:200]), expected[1]
        at = next((i for i, (a, b) in enumerate(zip(*(expected[0], ours[0]))) if a != b),
                  min(len(expected[0]), len(ours[0])))
        return "differs", f"at {at}: {ours[0][max(0, at - 60):at + 60]!r}", repr(expected[0][max(0, at - 60):at + 60])


def published(archive):
    """Name to template."""
    templates = {}
    with tarfile.open(archive) as files:
        for member in files:
            path = pathlib.PurePath(member.name)
            if path.parent.name != "chat_templates" or not member.isfile():
                continue
            text = files.extractfile(member).read().decode()
            if path.suffix == ".json":
                text = json.loads(text)["chat_template"]
            templates[path.name] = text
    return templates


def compare_published(comparison, templates, verbose):
    """Whether each template renders every conversation equally or is refused where jinja2 raises, and renders one."""
    exact = equal = refused = 0
    for name, template in sorted(templates.items()):
        results = comparison.all([(template, conversation) for conversation in CONVERSATIONS.values()])
        equal += sum(result[0] == "equal" for result in results)
        refused += sum(result[0] == "refused" for result in results)
        wrong = [(key, *result) for key, result in zip(CONVERSATIONS, results) if result[0] not in ("equal", "refused")]
        if not any(result[0] == "equal" for result in results):
            wrong.append(("all", "never rendered", "", ""))
        exact += not wrong
        if verbose:
            print(name, [result[0] for result in results])
            for key, result in zip(CONVERSATIONS, results):
                if result[0] == "refused":
                    print("   ", key, result[1], "|", result[2])
        for key, kind, ours, expected in wrong:
            print(f"{name}: {key}: {kind}\n  fulgur {ours}\n  jinja2 {expected}")
    print(f"{exact} of {len(templates)} templates exact over {len(CONVERSATIONS)} conversations: "
          f"{equal} equal texts, {refused} refused by both")
    return exact == len(templates)


def compare_language(comparison, verbose):
    """One template a line; the sign for a line break stands for one."""
    file = pathlib.Path(__file__).with_name("chat_template_language.txt")
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    data = {"messages": CALLED, "text": "Grüße, it's \"ok\" 你好\n", "numbers": [3, 1.5, -2, 0, 1e100, True],
            "table": {"b": 1, "a": {"x": [1, None, "é"]}, "C": "c", "items": "key"}, "tools": None,
            "rows": [{"name": "b", "n": 2}, {"name": "A", "n": 1}, {"name": "c", "n": 2, "x": {"y": "z"}}]}
    bad = 0
    results = comparison.all([(line.replace("\u21b5", "\n"), data) for line in lines])
    for line, (kind, ours, expected) in zip(lines, results):
        if verbose and kind == "refused":
            print(f"{line}\n  fulgur {ours}\n  jinja2 {expected}")
        if kind not in ("equal", "refused"):
            bad += 1
            print(f"{kind}: {line}\n  fulgur {ours}\n  jinja2 {expected}")
    print(f"{len(lines) - bad} of {len(lines)} cases of the language agree, "
          f"{sum(kind == 'refused' for kind, _, _ in results)} of them refused by both")
    return bad == 0


def main():
    program, archive, *more = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        comparison, verbose = Comparison(os.path.abspath(program), folder), "--verbose" in more
        if not compare_language(comparison, verbose):
            sys.exit(1)
        if not pathlib.Path(archive).exists():
            print(f"published templates: skipped, there is no {archive}")
            sys.exit(77)
        templates = published(archive)
        if not templates or not compare_published(comparison, templates, verbose):
            sys.exit(1)


main()
