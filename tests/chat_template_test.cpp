// Chat templates: the language case by case, what ends a rendering and how it is said, where templates are found, and
// the command. tests/chat_templates_jinja.py compares with jinja2.
#include "text/chat_template.h"

#include <nlohmann/json.hpp>

#include "tests/scratch.h"

namespace fulgur::tests {
namespace {

using Json = nlohmann::ordered_json;

const Json kMessages =
    Json::parse(R"([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "你好"}])");
const Json kVariables = Json::parse(R"({"table": {"b": 1, "a": [1.5, null, "é"], "items": "key"}, "list": [3, 1, 2]})");

std::string render(const ChatTemplate& chat, const Json& tools = nullptr, const Json& variables = kVariables) {
  return chat.render({.messages = kMessages, .tools = tools, .variables = variables, .now = 1'700'000'000});
}
std::string render(const std::string& text) { return render(ChatTemplate::parse(text, "test")); }

struct Case {
  const char *text, *expected;
};

void expect_texts(std::initializer_list<Case> cases) {
  for (const auto& [text, expected] : cases) EXPECT_EQ(render(text), expected) << text;
}

struct Refusal {
  const char* text;
  ErrorKind kind;
  const char* words;
};

void expect_refusals(std::initializer_list<Refusal> cases) {
  for (const auto& [text, kind, words] : cases) expect_error(kind, {words}, [&, text = text] { render(text); });
}

TEST(ChatTemplate, expressions) {
  expect_texts(
      {{"{{ 1 + 2 * 3 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 3 ** 2 }}", "7 3.5 -4 2 64"},
       {"{{ 'a' ~ 1 ~ none ~ true ~ 1e16 ~ [1, 'x'] }}", "a1NoneTrue1e+16[1, 'x']"},
       {"{{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ 'a' in 'abc' }} {{ 9 not in list }}", "True True True True"},
       {"{{ 'x' if list else 'y' }}{{ 'x' if false }} {{ 0 or 'o' }} {{ not '' }}", "x o True"},
       {"{{ list[1:] }} {{ 'abc'[::-1] }} {{ list[-1] }} {{ table.a[2] }} {{ table['a'].0 }}", "[1, 2] cba 2 é 1.5"},
       {"{{ messages[1].content[0] }} {{ messages[1]['content'] | length }}", "你 2"},
       {"{{ table }}", "{'b': 1, 'a': [1.5, None, 'é'], 'items': 'key'}"},
       {"{{ table['items'] }} {{ table.items() | list | length }} {{ table.get('z', 5) }}", "key 3 5"},
       {"{{ missing }}|{{ missing is defined }}|{{ messages[9] }}|{{ tools }}|{{ [missing] }}",
        "|False||None|[Undefined]"}});
}

TEST(ChatTemplate, statements) {
  expect_texts(
      {{"{% for x in list if x > 1 %}{{ loop.index }}:{{ x }}{{ ', ' if not loop.last }}{% endfor %}", "1:3, 2:2"},
       {"{% for x in list %}{% if x == 1 %}{% continue %}{% elif x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}",
        "3"},
       {"{% for x in [] %}{% else %}none{% endfor %}{% for k, v in table.items() %}{{ k }}{% endfor %}", "nonebaitems"},
       {"{% for x in list %}{% break %}{% else %}not to its end{% endfor %}", "not to its end"},
       {"{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x ~ loop.depth }}{% endfor %}",
        "112233"},
       {"{% set x = 1 %}{% for y in list %}{% set x = y %}{% endfor %}{{ x }}{% set a, b = 1, 2 %}{{ a + b }}", "13"},
       {"{% set n = namespace(c=0) %}{% for y in list %}{% set n.c = n.c + y %}{% endfor %}{{ n.c }}", "6"},
       {"{% set t | upper %}a{{ 1 }}{% endset %}{{ t }}{% filter trim %} b {% endfilter %}", "A1b"},
       {"{% macro m(a, b=a) %}[{{ a }}{{ b }}{{ caller() if caller }}]{% endmacro %}{{ m(1) }}{% call m(2, b=3) %}c{% "
        "endcall %}",
        "[11][23c]"},
       {"{% macro f(n) %}{{ n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(3) }}", "3210"},
       {"{% generation %}a{% set q = 1 %}{% endgeneration %}{{ q is defined }}{% with a = 2 %}{{ a }}{% endwith %}",
        "aFalse2"},
       {"{% raw %}{{ x }}{% endraw %}{# no #}", "{{ x }}"},
       {"{{ strftime_now('%Y') }}{{ range(3) | list }}{{ dict(a=1) }}", "2023[0, 1, 2]{'a': 1}"}});
}

TEST(ChatTemplate, white_space) {
  expect_texts({{"a\n{% if true %}\n  b\n{% endif %}\nc\n", "a\n  b\nc"},
                {"a\n  {% if true %}  \nb\n    {%- endif %}\nc", "a\n  \nbc"},
                {"a\n  {%+ if true %}x{% endif +%}\nb", "a\n  x\nb"},
                {"a  {{- 1 -}}  b {#- c -#} d\r\ne", "a1bd\ne"},
                {"x {% if true %}y {% endif %} z", "x y  z"},
                {"{{ 1 }} {% if true %}b{% endif %}", "1 b"},
                {"  {{ 1 }}\n{# x #}\ny", "  1\ny"}});
}

TEST(ChatTemplate, filters_tests_methods) {
  expect_texts(
      {{"{{ table | tojson }}", R"({"b": 1, "a": [1.5, null, "é"], "items": "key"})"},
       {"{{ {'b': [], 'a': 'é'} | tojson(indent=1, sort_keys=true, ensure_ascii=true) }}",
        "{\n \"a\": \"\\u00e9\",\n \"b\": []\n}"},
       {"{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(',') }}", "你好"},
       {"{{ list | sort }} {{ list | sort(reverse=true) | first }} {{ {'b': 1, 'A': 2} | dictsort }}",
        "[1, 2, 3] 3 [('A', 2), ('b', 1)]"},
       {"{{ none | map('nope') | list }} {{ missing | default('d') }} {{ '' | default('d', true) }}", "[] d d"},
       {"{{ 'a\n\nb' | indent(2) }} {{ ' x ' | trim }} {{ '7.9' | int }} {{ 2.5 | round }}", "a\n\n  b x 7 2.0"},
       {"{{ '<' | safe + '<' }} {{ ('<' | safe) ~ '<' }}", "<&lt; <<"},
       {"{{ 1 is number and 'a' is string and [] is sequence and {} is mapping and none is none }}", "True"},
       {"{{ 4 is divisibleby 2 }} {{ 'x' is not in ['x'] }} {{ true is integer }} {{ 3 is odd }}",
        "True False False True"},
       {"{{ ' a b '.split() }} {{ 'a,b'.split(',', 1) }} {{ 'xax'.strip('x') }} {{ 'ab'.replace('', '-') }}",
        "['a', 'b'] ['a', 'b'] a -a-b-"},
       {"{{ 'straße'.upper() }} {{ 'ab cd'.title() }} {{ '-'.join(['a', 'b']) }} {{ 'ab'.startswith(('x', 'a')) }}",
        "STRASSE Ab Cd a-b True"},
       {"{{ '{:>4}|{:.1f}|{a}'.format(1, 2.55, a='z') }} {{ '%05.1f %s' % (3.14159, none) }}",
        "   1|2.5|z 003.1 None"}});
}

TEST(ChatTemplate, what_python_refuses) {
  const auto kind = ErrorKind::invalid_input;
  expect_refusals({{"a\n{{ raise_exception('no ' ~ 1) }}", kind, "test: line 2: the template raises: no 1"},
                   {"{{ missing.x }}", kind, "'missing' is undefined"},
                   {"{{ messages[0].x.y }}", kind, "'dict object' has no attribute 'x'"},
                   {"{{ 'a' + 1 }}", kind, "can only concatenate str (not \"int\") to str"},
                   {"{{ list.append(1) }}", kind, "access to attribute 'append' of 'list object' is unsafe"},
                   {"{{ 1 / 0 }}", kind, "division by zero"},
                   {"{{ missing | tojson }}", kind, "Undefined is not JSON serializable"},
                   {"{% if true %}{{ 1 | nope }}{% endif %}", kind, "no filter named 'nope'"},
                   {"{% macro m(a) %}{% endmacro %}{{ m(b=1) }}", kind, "macro 'm' takes no keyword argument 'b'"},
                   {"{{ range(100001) }}", kind, "range too big"},
                   {"{% for a, b in [[1]] %}{% endfor %}", kind, "expected 2 values to unpack, not 1"}});
}

TEST(ChatTemplate, what_is_no_template) {
  const auto kind = ErrorKind::corrupt_file;
  expect_refusals({{"a\n\n{{ 1 2 }}", kind, "test: line 3: expected '}}', not the number 2"},
                   {"{% if x %}", kind, "the template ends before 'endif'"},
                   {"{% nope %}", kind, "unknown statement 'nope'"},
                   {"{{ 'a }}", kind, "a text without its closing quote"},
                   {"{{ (1] }}", kind, "unexpected ']', expected ')'"},
                   {"{{ 1 | nope }}", kind, "no filter named 'nope'"},
                   {"{{ 1 is nope }}", kind, "no test named 'nope'"},
                   {"{% break %}", kind, "'break' outside of a loop"},
                   {"{# x", kind, "missing end of comment tag"},
                   {"{% raw %}", kind, "missing end of raw directive"},
                   {"\xff", kind, "no valid UTF-8"}});
}

TEST(ChatTemplate, what_is_not_supported) {
  const auto kind = ErrorKind::unsupported;
  expect_refusals({{"\n{% include 'x' %}", kind, "line 2: not supported: the statement 'include'"},
                   {"{% if true %}{{ list | pprint }}{% endif %}", kind, "not supported: the filter 'pprint'"},
                   {"{{ 'a'.swapcase() }}", kind, "not supported: 'swapcase' of a str"},
                   {"{{ joiner() }}", kind, "not supported: the function 'joiner'"},
                   {"{{ 9223372036854775807 + 1 }}", kind, "not supported: integers beyond 64 bits"},
                   {"{{ 99999999999999999999 }}", kind, "the integer 99999999999999999999, beyond 64 bits"},
                   {"{{ table.items }}", kind, "not supported: printing a method"},
                   {"{{ list | map('string') }}", kind, "not supported: printing a generator"}});
  const Json big = Json::parse(R"({"n": 18446744073709551615})");
  expect_error(kind, {"the integer 18446744073709551615"},
               [&] { render(ChatTemplate::parse("x", "test"), nullptr, big); });
}

std::string repeated(const std::string& text, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

// Each ends with its error, not with the stack or the memory.
TEST(ChatTemplate, bounds) {
  const std::string loop = "{% for i in range(100000) %}", end = "{% endfor %}";
  const std::pair<std::string, const char*> cases[] = {
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested more than 1200 deep"},
      {"{% macro f() %}" + repeated("{% if true %}", 90) + "{{ f() }}" + repeated("{% endif %}", 90) +
           "{% endmacro %}{{ f() }}",
       "nested more than 1200 deep"},
      {"{{ " + repeated("(", 5000) + "1" + repeated(")", 5000) + " }}", "expressions nested more than"},
      {"{{ " + repeated("not ", 5000) + "1 }}", "expressions nested more than"},
      {"{{ " + repeated("[", 5000) + repeated("]", 5000) + " }}", "expressions nested more than"},
      {repeated("{% if 1 %}", 5000), "statements nested more than"},
      {"{{ 1" + repeated(" + 1", 4000) + " }}", "nested more than 1200 deep"},
      {"{{ 1" + repeated(" + 1", 40000) + " }}", "an expression of more than 10000 tokens"},
      {"{{ a" + repeated(".a", 40000) + " }}", "an expression of more than 10000 tokens"},
      {"{{ 'ab' * 1000000000 }}", "a text of more than"},
      {"{{ [1] * 1000000000 }}", "a list of more than"},
      {"{{ ('a' * 10000).replace('', 'b' * 10000) }}", "a text of more than"},
      {"{{ '%99999d' % 1 }}", "a width of more than"},
      {"{% set n = namespace(x=[]) %}" + loop + "{% set n.x = [n.x] %}" + end, "values nested more than 200 deep"},
      {"{% set n = namespace(x=[]) %}" + loop + "{% set n.x = [n.x, n.x] %}" + end, "of more than 4194304 values"},
      {"{% set n = namespace(x=[1]) %}" + loop + "{% set n.x = n.x | map('abs') %}" + end,
       "values nested more than 200 deep"},
      {loop + "{{ 'a' * 1000 }}" + end, "a rendering of more than"},
      {loop + loop + end + end, "steps"}};
  for (const auto& [text, words] : cases)
    expect_error(ErrorKind::unsupported, {words}, [&, text = text] { render(text); });
}

// A namespace and a macro that hold themselves are given back: the leak checker of the asan preset looks.
TEST(ChatTemplate, cycles) {
  EXPECT_EQ(
      render(
          "{% set n = namespace() %}{% set n.n = n %}{% set n.m = [n] %}{% macro m() %}{% set n.f = m %}{% endmacro %}"
          "{{ m() }}{{ n.n.f.name }}"),
      "m");
}

class Folder : public testing::Test {
 protected:
  void config(const std::string& text) { spill(scratch_ / "tokenizer_config.json", text); }
  void expect_broken(ErrorKind kind, const char* words) {
    expect_error(kind, {words}, [&] { ChatTemplate::load(scratch_.path()); });
  }
  const Scratch scratch_;
};

TEST_F(Folder, text_in_the_configuration) {
  config(
      R"({"chat_template": "{{ bos_token }}{{ eos_token }}{{ additional_special_tokens[0] }}{{ unk_token is defined }}",
             "bos_token": "<s>", "eos_token": {"content": "</s>"}, "additional_special_tokens": ["<x>"], "unk_token": null})");
  const auto chat = ChatTemplate::load(scratch_.path());
  EXPECT_EQ(render(chat), "<s></s><x>False");
  EXPECT_EQ(render(chat, nullptr, {{"bos_token", "other"}}), "other</s><x>False");
  EXPECT_EQ(render(ChatTemplate::load(scratch_ / "tokenizer_config.json")), "<s></s><x>False");
}

TEST_F(Folder, named_templates) {
  config(
      R"({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t{{ tools | length }}"}]})");
  EXPECT_EQ(render(ChatTemplate::load(scratch_.path())), "d");
  EXPECT_EQ(render(ChatTemplate::load(scratch_.path()), Json::parse(R"([{"type": "function"}])")), "t1");
  config(R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  expect_error(ErrorKind::invalid_input, {"no template is named \"default\""},
               [&] { render(ChatTemplate::load(scratch_.path())); });
}

TEST_F(Folder, own_file_comes_first) {
  spill(scratch_ / "chat_template.jinja", "file {{ bos_token }}");
  EXPECT_EQ(render(ChatTemplate::load(scratch_.path())), "file ");
  config(R"({"chat_template": "configuration", "bos_token": "<s>"})");
  EXPECT_EQ(render(ChatTemplate::load(scratch_.path())), "file <s>");
  EXPECT_EQ(render(ChatTemplate::load(scratch_ / "chat_template.jinja")), "file ");
}

TEST_F(Folder, broken_files) {
  expect_broken(ErrorKind::not_found, "tokenizer_config.json");
  config("{}");
  expect_broken(ErrorKind::not_found, "no chat template");
  config(R"({"chat_template": 5})");
  expect_broken(ErrorKind::corrupt_file, "expected a text or a list of named templates");
  config(R"({"chat_template": [{"name": "default"}]})");
  expect_broken(ErrorKind::corrupt_file, "`name` and `template`");
  config(R"({"chat_template": [{"name": "a", "template": "x"}, {"name": "a", "template": "y"}]})");
  expect_broken(ErrorKind::corrupt_file, "a second template of that name");
  config(R"({"chat_template": "x", "eos_token": 5})");
  expect_broken(ErrorKind::corrupt_file, "eos_token: expected a text or an object");
  config(R"({"chat_template": "x", "additional_special_tokens": "a"})");
  expect_broken(ErrorKind::corrupt_file, "additional_special_tokens: expected a list");
  config(R"({"chat_template": "a\n{{"})");
  expect_broken(ErrorKind::corrupt_file, "chat_template: line 2: unexpected end of template");
}

TEST(ChatTemplate, wrong_messages) {
  const auto chat = ChatTemplate::parse("x", "test");
  const Json no_list = Json::object(), no_objects = Json::array({1});
  const Json null;
  expect_error(ErrorKind::invalid_input, {"messages: expected a list of objects"},
               [&] { (void)chat.render({.messages = no_list, .tools = null, .variables = null}); });
  expect_error(ErrorKind::invalid_input, {"tools: expected a list of objects"},
               [&] { (void)chat.render({.messages = kMessages, .tools = no_objects, .variables = null}); });
}

TEST(Render, command) {
  if (program().empty()) GTEST_SKIP() << "the program is not built";
  const Scratch scratch;
  const std::string file = (scratch / "t.jinja").string(), messages = (scratch / "m.json").string(),
                    tools = (scratch / "tools.json").string();
  spill(file, "{{ messages[0].content }}|{{ tools }}|{{ add_generation_prompt }}|{{ k }}\n\n");
  const auto run = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"render", file, "--messages", messages});
    return run_program(more, scratch / "run");
  };
  const auto expect_text = [&](const std::vector<std::string>& more, const std::string& text) {
    const auto done = run(more);
    expect_exit(done, 0);
    EXPECT_EQ(done.out, text);
  };
  const auto expect_refused = [&](const std::vector<std::string>& more, int exit, const std::string& words) {
    const auto done = run(more);
    expect_exit(done, exit);
    EXPECT_NE(done.err.find(words), std::string::npos) << done.err;
  };
  spill(messages, R"([{"content": "你"}])");
  spill(tools, R"([{"a": 1}])");
  expect_text({}, "你|None|True|\n");
  expect_text({"--tools", tools, "--no-generation-prompt", "--set", "k=[1]", "--set", "bos_token=\"s\""},
              "你|[{'a': 1}]|False|[1]\n");
  expect_text({"--json", "--set", "k=1"}, "{\"text\":\"你|None|True|1\\n\"}\n");
  spill(messages, R"({"messages": [{"content": "a"}], "tools": [{}], "add_generation_prompt": false, "k": "v"})");
  expect_text({}, "a|[{}]|False|v\n");
  expect_refused({"--set", "k"}, 2, "expected key=json");
  expect_refused({"--set", "k=text"}, 2, "is no JSON");
  expect_refused({"--set", "tools=[]"}, 2, "--set tools: expected another variable");
  expect_refused({"--tools", messages}, 2, "tools: expected a list of objects");
  expect_refused({"--tools", file + "x"}, 3, file + "x");
  spill(messages, R"({"tools": []})");
  expect_refused({}, 2, "expected a list of messages, or an object with `messages`");
  spill(messages, R"({"messages": [], "add_generation_prompt": 1})");
  expect_refused({}, 2, "add_generation_prompt: expected true or false");
  spill(messages, "[");
  expect_refused({}, 3, "no valid JSON at byte");
}

}  // namespace
}  // namespace fulgur::tests
