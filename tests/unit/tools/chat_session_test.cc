#include "tools/chat_session.h"

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/terminal_text.h"

namespace moepool {
namespace {

using testing::HasSubstr;

std::string Contents(const ChatSession& session) {
  std::string all;
  for (const ChatTurn& turn : session.Turns()) all += turn.role + "=" + turn.content + ";";
  return all;
}

TEST(ChatSessionTest, CommandsChangeTheConversation) {
  ChatSession session("be brief");
  session.Add("one?", "1");
  session.Add("two?", "2");
  EXPECT_EQ(Contents(session), "system=be brief;user=one?;assistant=1;user=two?;assistant=2;");
  EXPECT_EQ(session.Command("/undo")->message, "1 question left");
  EXPECT_EQ(Contents(session), "system=be brief;user=one?;assistant=1;");
  EXPECT_EQ(session.Command("/system")->message, "system: be brief");
  EXPECT_EQ(session.Command("/system  be long ")->message, "system: be long");
  EXPECT_EQ(session.Command("/clear")->message, "forgotten");
  EXPECT_EQ(Contents(session), "system=be long;");
  EXPECT_EQ(session.Command("/system -")->message, "no system prompt");
  EXPECT_EQ(Contents(session), "");
  EXPECT_EQ(session.Command("/undo")->message, "nothing to undo");
  EXPECT_EQ(session.Command("/quit")->next, ChatSession::Next::kQuit);
  EXPECT_EQ(session.Command("/help")->next, ChatSession::Next::kGoOn);
}

TEST(ChatSessionTest, CommandsThatAreNoneAreRefused) {
  ChatSession session("");
  EXPECT_THAT(std::string(session.Command("/celar").status().message()), HasSubstr("/celar"));
  EXPECT_THAT(std::string(session.Command("/clear all").status().message()), HasSubstr("'all'"));
  EXPECT_FALSE(session.Command("/save").ok());
  EXPECT_THAT(std::string(session.Command("/save /no/such/folder/x").status().message()),
              HasSubstr("/no/such"));
}

TEST(ChatSessionTest, SaveWritesMessages) {
  ChatSession session("kurz");
  session.Add("你好 \"x\"", "bad \xFF utf-8");
  const std::string path = testing::TempDir() + "/chat.json";
  EXPECT_THAT(session.Command("/save " + path)->message, HasSubstr("3 messages"));
  std::ifstream file(path);
  const nlohmann::json saved = nlohmann::json::parse(file);
  ASSERT_EQ(saved.size(), 3u);
  EXPECT_EQ(saved[0], nlohmann::json({{"role", "system"}, {"content", "kurz"}}));
  EXPECT_EQ(saved[1]["content"], "你好 \"x\"");
}

// What comes of lines, one message each; a message that is not whole is left out.
std::vector<std::string> Read(const std::vector<std::string>& lines) {
  MessageReader reader;
  std::vector<std::string> messages;
  for (const std::string& line : lines) {
    if (const auto message = reader.Add(line)) messages.push_back(*message);
  }
  return messages;
}

TEST(MessageReaderTest, SeveralLines) {
  EXPECT_THAT(Read({"one", "two"}), testing::ElementsAre("one", "two"));
  EXPECT_THAT(Read({"one\\", "two\\", "three"}), testing::ElementsAre("one\ntwo\nthree"));
  EXPECT_THAT(Read({"\"\"\"", "a \\", "/b", "\"\"\"", "next"}), testing::ElementsAre("a \\\n/b", "next"));
  EXPECT_THAT(Read({"see: \"\"\"x", "y\"\"\" ok?"}), testing::ElementsAre("see: x\ny ok?"));
  EXPECT_THAT(Read({"\"\"\"in one\"\"\""}), testing::ElementsAre("in one"));
  EXPECT_THAT(Read({"\"\"\"", "never closed"}), testing::ElementsAre());
}

TEST(MessageReaderTest, ResetForgets) {
  MessageReader reader;
  EXPECT_FALSE(reader.Add("\"\"\"").has_value());
  EXPECT_TRUE(reader.pending());
  reader.Reset();
  EXPECT_FALSE(reader.pending());
  EXPECT_EQ(reader.Add("fresh"), "fresh");
}

TEST(TerminalTextTest, NothingThatATerminalWouldObey) {
  EXPECT_EQ(TerminalText("a\x1b[2Jb\x07\r\n\tc\x7f"), "a[2Jb\n\tc");
  EXPECT_EQ(TerminalText("x\xC2\x9B"
                         "31my"),
            "x31my");  // the one-character form of ESC [
  EXPECT_EQ(TerminalText("你好 🌍"), "你好 🌍");
  EXPECT_EQ(TerminalText("\xFFz\xE4\xBD"), "\uFFFDz\uFFFD");
}

}  // namespace
}  // namespace moepool
