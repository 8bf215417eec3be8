// A minimal test framework: CHECK, and a table of tests that main runs.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace afdet_test {

struct Test {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Adder {
  Adder(const char* name, std::function<void()> body) {
    tests().push_back({name, std::move(body)});
  }
};

// Runs all tests and returns the exit status of the program.
inline int run_all() {
  for (const Test& test : tests()) {
    const int before = failures();
    test.body();
    std::printf("%-6s %s\n", failures() == before ? "ok" : "FAILED", test.name);
  }
  std::printf("%zu tests, %d checks failed\n", tests().size(), failures());
  return failures() == 0 && !tests().empty() ? 0 : 1;
}

}  // namespace afdet_test

#define TEST(name)                                               \
  static void test_##name();                                     \
  static const afdet_test::Adder add_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      ++afdet_test::failures();                                               \
      if (afdet_test::failures() < 20) {                                      \
        std::printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      }                                                                       \
    }                                                                         \
  } while (false)
