// The host's block policy: its primitives, and that a race shows.
#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "check.hpp"
#include "cuda/block_host.hpp"

namespace {

using namespace afdet;

struct Shared {
  uint32_t words[4];
  uint32_t sum;
  int last;
};

using Block = HostBlock<128, Shared, true, 256>;

template <typename F>
void in_every_order(F body) {
  for (const uint32_t seed : {0u, 1u, 2u, 3u, 99u}) {
    Order order(seed);
    Block block(0, 0, order);
    body(block);
  }
}

TEST(orders_are_permutations) {
  for (const uint32_t seed : {0u, 1u, 2u, 3u}) {
    Order order(seed);
    std::vector<int> turns = order.turns(50);
    CHECK((turns.front() == 0 && turns[1] == 1) == (seed == 0));
    if (seed == 1) CHECK(turns.front() == 49);
    std::sort(turns.begin(), turns.end());
    for (int i = 0; i < 50; ++i) CHECK(turns[static_cast<size_t>(i)] == i);
  }
}

TEST(sums_are_exclusive) {
  in_every_order([](Block& block) {
    Block::PerThread<int32_t> values(block);
    block.for_threads([&](int thread) { values[thread] = thread % 5; });
    const int32_t total = block.exclusive_sum(values);
    int32_t want = 0;
    for (int thread = 0; thread < Block::kThreads; ++thread) {
      CHECK(values[thread] == want);
      want += thread % 5;
    }
    CHECK(total == want);
  });
}

TEST(ballots_have_a_bit_per_thread) {
  in_every_order([](Block& block) {
    Block::PerThread<bool> flags(block);
    block.for_threads([&](int thread) { flags[thread] = thread % 3 == 0; });
    block.ballot(flags, block.shared().words);
    for (int thread = 0; thread < Block::kThreads; ++thread) {
      const bool bit = ((block.shared().words[thread / 32] >> (thread % 32)) & 1u) != 0;
      CHECK(bit == (thread % 3 == 0));
    }
  });
}

TEST(keys_are_sorted) {
  in_every_order([](Block& block) {
    std::mt19937_64 random(5);
    std::vector<Key> want(Block::kSortKeys);
    for (Key& key : want) key = random();
    std::copy(want.begin(), want.end(), block.keys());
    block.sort();
    std::sort(want.begin(), want.end());
    CHECK(std::equal(want.begin(), want.end(), block.keys()));
  });
}

TEST(atomics_count_every_thread) {
  in_every_order([](Block& block) {
    block.for_threads([&](int thread) {
      if (thread == 0) block.shared().sum = 0;
    });
    std::set<uint32_t> places;
    block.for_threads([&](int) { places.insert(Block::atomic_add(&block.shared().sum, 2)); });
    CHECK(block.read(block.shared().sum) == 256);
    CHECK(places.size() == 128);
  });
}

TEST(memory_that_nobody_wrote_is_garbage) {
  Order order(0);
  Block block(0, 0, order);
  CHECK(block.shared().sum == 0xCDCDCDCDu);
  CHECK(block.keys()[7] == 0xCDCDCDCDCDCDCDCDull);
}

TEST(a_race_shows_as_a_result_that_depends_on_the_order) {
  std::set<int> results;
  in_every_order([&results](Block& block) {
    block.for_threads([&](int thread) { block.shared().last = thread; });
    results.insert(block.shared().last);
  });
  CHECK(results.size() > 1);
}

}  // namespace

int main() { return afdet_test::run_all(); }
