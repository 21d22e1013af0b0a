// Text to packed rows: documents and their borders, every token predicted once, an order that is a function of the
// seed.
#include <gtest/gtest.h>

#include <set>

#include "data/corpus.h"
#include "data/document_stream.h"
#include "data/documents.h"
#include "tests/scratch.h"
#include "text/tokenizer.h"

namespace fulgur::tests {
namespace {

TEST(Documents, are_split_at_their_lines) {
  const Scratch scratch;
  const std::vector<std::string> want{"one\ntwo\n", " three <|endoftext|> not a line\n", "four"};
  spill(scratch / "a.txt",
        "one\ntwo\n<|endoftext|>\n three <|endoftext|> not a line\n<|endoftext|>\r\n<|endoftext|>\nfour");
  EXPECT_EQ(read_documents(scratch / "a.txt"), want);
  spill(scratch / "b.txt", "<|endoftext|>\n");
  EXPECT_TRUE(read_documents(scratch / "b.txt").empty());
}

std::vector<Document> all_of(DocumentStream stream) {
  std::vector<Document> documents;
  for (Document document; stream.next(document);) documents.push_back(document);
  EXPECT_EQ(stream.bytes_read(), stream.file_bytes());
  return documents;
}

TEST(Documents, say_their_kind) {
  const Scratch scratch;
  spill(scratch / "a.jsonl",
        "{\"text\": \"x\", \"source\": \"books\"}\n{\"text\": \"y\", \"source\": \"web\", \"kind\": \"code\"}\n"
        "{\"text\": \"z\", \"kind\": 3}\n");
  const std::vector<Document> documents = all_of(DocumentStream(scratch / "a.jsonl"));
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(documents[0].kind, "books");
  EXPECT_EQ(documents[1].kind, "code");
  EXPECT_EQ(documents[2].kind, "");
}

TEST(Documents, long_ones_come_in_pieces_that_cut_no_word) {
  const Scratch scratch;
  spill(scratch / "a.txt", "one\n two\n\n/three\n four\nfive\n\u4e00\n<|endoftext|>\nsix\n7");
  std::vector<std::string> texts;
  for (const Document& piece : all_of(DocumentStream(scratch / "a.txt", 1))) texts.push_back(piece.text);
  EXPECT_EQ(texts, (std::vector<std::string>{"one\n two\n\n/three\n four\n", "five\n", "\u4e00\n", "six\n", "7"}));
}

TEST(Documents, files) {
  const Scratch scratch;
  spill(scratch / "a.jsonl", "{\"text\": \"x\\ny\"}\n\n{\"text\": \"\", \"id\": 3}\n{\"text\": \"z\"}");
  EXPECT_EQ(read_documents(scratch / "a.jsonl"), (std::vector<std::string>{"x\ny", "z"}));
  spill(scratch / "b.jsonl", "{\"text\": \"x\"}\n[1]\n");
  expect_error(ErrorKind::corrupt_file, {"b.jsonl:2", "object"}, [&] { read_documents(scratch / "b.jsonl"); });
  spill(scratch / "c.jsonl", "{\"text\": 3}\n");
  expect_error(ErrorKind::corrupt_file, {"c.jsonl:1", "text"}, [&] { read_documents(scratch / "c.jsonl"); });
  spill(scratch / "d.jsonl", "{\"messages\": [{}]}\n");
  expect_error(ErrorKind::unsupported, {"d.jsonl:1", "messages"}, [&] { read_documents(scratch / "d.jsonl"); });
  spill(scratch / "e.csv", "x");
  expect_error(ErrorKind::unsupported, {"e.csv", ".jsonl"}, [&] { read_documents(scratch / "e.csv"); });
  expect_error(ErrorKind::not_found, {"nowhere.txt"}, [&] { read_documents(scratch / "nowhere.txt"); });
}

TokenizedDocuments numbered(const std::vector<int64_t>& lengths) {
  TokenizedDocuments all;
  int32_t next = 0;
  for (const int64_t n : lengths) {
    std::vector<int32_t> tokens(static_cast<size_t>(n));
    for (int32_t& t : tokens) t = next++;
    all.add(tokens);
  }
  return all;
}

// Tokens are numbered through all documents, so what follows what is known.
TEST(PackedRows, every_token_of_an_epoch_is_seen_once_and_predicted_in_its_document) {
  const std::vector<int64_t> lengths{5, 1, 30, 2, 12, 7, 64, 3};  // 124 tokens
  const TokenizedDocuments documents = numbered(lengths);
  PackedRows rows(documents, 31, 7);
  std::multiset<int32_t> seen;
  int64_t predicted = 0;
  for (int64_t i = 0; i < 4; ++i) {
    const PackedRow row = rows.row(i);
    ASSERT_EQ(row.tokens.size(), 31u);
    EXPECT_EQ(row.begin.front(), 0);
    for (size_t t = 0, piece = 0; t < 31; ++t) {
      if (piece + 1 < row.begin.size() && int32_t(t) == row.begin[piece + 1]) ++piece;
      EXPECT_EQ(row.positions[t], int64_t(t) - row.begin[piece]);
      seen.insert(row.tokens[t]);
      predicted += row.targets[t] >= 0;
      const bool ends =
          std::find(documents.begin.begin(), documents.begin.end(), row.tokens[t] + 1) != documents.begin.end();
      EXPECT_EQ(row.targets[t], ends ? -1 : row.tokens[t] + 1);
      if (t > 0 && row.positions[t] > 0) {
        EXPECT_EQ(row.tokens[t], row.tokens[t - 1] + 1);
      }
    }
  }
  EXPECT_EQ(seen.size(), 124u);
  EXPECT_EQ(std::set<int32_t>(seen.begin(), seen.end()).size(), 124u);
  EXPECT_EQ(predicted, 124 - 8);
}

TEST(PackedRows, a_row_is_a_function_of_seed_and_index) {
  const TokenizedDocuments documents = numbered({5, 1, 30, 2, 12, 7, 64, 3});
  PackedRows forth(documents, 20, 1), back(documents, 20, 1), other(documents, 20, 2);
  std::vector<std::vector<int32_t>> order;
  for (int64_t i = 0; i < 30; ++i) order.push_back(forth.row(i).tokens);
  for (int64_t i = 30; i-- > 0;) EXPECT_EQ(back.row(i).tokens, order[size_t(i)]);
  EXPECT_NE(other.row(0).tokens, order[0]);
  PackedRows whole(documents, 124, 1);
  EXPECT_NE(whole.row(0).tokens, whole.row(1).tokens) << "epochs have orders of their own";
}

TEST(Corpus, frames_counts_and_repeats) {
  const std::string folder = std::string(FULGUR_SOURCE) + "/data/tiny";
  const Scratch scratch;
  spill(scratch / "t.txt", "Hello\n<|endoftext|>\n<end_of_document>");
  const RunCorpus corpus =
      read_run_corpus(folder + "/tokenizer", {{(scratch / "t.txt").string(), 2}}, {{(scratch / "t.txt").string(), 1}});
  EXPECT_EQ(corpus.vocab_size, 512);
  EXPECT_EQ(corpus.validation.bytes, 6 + 17);
  EXPECT_EQ(corpus.training.bytes, 2 * (6 + 17));
  EXPECT_EQ(corpus.training.documents.count(), 4);
  for (int64_t d = 0; d < 4; ++d) {
    const auto tokens = corpus.training.documents.document(d);
    EXPECT_EQ(tokens.front(), corpus.begin_of_sentence);
    EXPECT_EQ(tokens.back(), corpus.end_of_document);
    for (size_t i = 1; i + 1 < tokens.size(); ++i)
      EXPECT_LT(tokens[i], corpus.begin_of_sentence) << "text does not become a special token";
  }
}

// A conversation is what the template beside the tokenizer makes of it, in one frame.
TEST(Corpus, reads_conversations_by_the_chat_template) {
  const Scratch scratch;
  std::filesystem::copy(std::string(FULGUR_SOURCE) + "/data/tiny/tokenizer", scratch / "tokenizer");
  const std::string tokenizer = (scratch / "tokenizer").string(), file = (scratch / "c.jsonl").string();
  const auto read = [&] { return read_run_corpus(tokenizer, {{file}}, {}); };
  spill(file, "{\"text\": \"x\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"tools\": [{}]}\n");
  expect_error(ErrorKind::not_found, {"c.jsonl:2", "chat_template.jinja"}, read);
  const auto text_of = [&](const std::string& jinja) {
    spill(scratch / "tokenizer" / "chat_template.jinja", jinja);
    const RunCorpus corpus = read();
    const auto tokens = corpus.training.documents.document(1);
    EXPECT_EQ(tokens.front(), corpus.begin_of_sentence);
    EXPECT_EQ(tokens.back(), corpus.end_of_document);
    return std::pair(Tokenizer::load(tokenizer).decode(tokens), corpus.training.bytes - 1);
  };
  const std::string message = "{% for m in messages %}{{ m.role }}: {{ m.content }}<end_of_sentence>{% endfor %}";
  const std::string want = "<beginning_of_sentence>user: Hi<end_of_sentence><end_of_document>";
  EXPECT_EQ(text_of(message), std::pair(want, int64_t(8 + 17)));
  EXPECT_EQ(text_of("<beginning_of_sentence>" + message), std::pair(want, int64_t(23 + 8 + 17)));
  EXPECT_EQ(text_of("{{ tools | length }}{% if add_generation_prompt %}?{% endif %}").first,
            "<beginning_of_sentence>1<end_of_document>");
  spill(file, "{\"messages\": [{\"role\": \"user\"}]}");
  expect_error(ErrorKind::invalid_input, {"c.jsonl:1", "chat_template.jinja"},
               [&] { text_of("{{ messages[0].content + 'x' }}"); });
  spill(file, "\n{\"messages\": []}\n");
  expect_error(ErrorKind::corrupt_file, {"c.jsonl:2", "messages"}, read);
}

}  // namespace
}  // namespace fulgur::tests
