// The block policy on the CPU: its primitives, and that it detects a race.
#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "check.hpp"
#include "emulated/block.hpp"

namespace {

using namespace afdet;

struct Shared {
  uint32_t sum;
  int32_t last;
  int32_t values[128];
};

using Block = EmulatedBlock<128, Shared, 256>;

template <typename F>
void in_every_order(F body) {
  for (const uint32_t seed : {0u, 1u, 2u, 3u, 99u}) {
    Order order(seed);
    Block block(0, 0, order);
    body(block);
  }
}

TEST(orders_are_permutations) {
  std::set<std::vector<int>> seen;
  for (const uint32_t seed : {0u, 1u, 2u, 3u}) {
    Order order(seed);
    std::vector<int> turns = order.turns(50);
    seen.insert(turns);
    if (seed > 1) seen.insert(order.turns(50));
    std::sort(turns.begin(), turns.end());
    for (int i = 0; i < 50; ++i) CHECK(turns[static_cast<size_t>(i)] == i);
  }
  CHECK(seen.size() == 6);  // Each phase is shuffled again.
}

TEST(a_phase_runs_every_thread_once) {
  in_every_order([](Block& block) {
    std::vector<int> runs(Block::kThreads);
    block.for_threads([&](int thread) { ++runs[static_cast<size_t>(thread)]; });
    CHECK(std::count(runs.begin(), runs.end(), 1) == Block::kThreads);
  });
}

TEST(a_launch_runs_every_block_once) {
  for (const uint32_t seed : {0u, 1u, 7u}) {
    std::vector<int> runs(12);
    for_blocks<Block>(
        4, 3, seed, [&](Block& block) { ++runs[static_cast<size_t>(block.y() * 4 + block.x())]; });
    CHECK(std::count(runs.begin(), runs.end(), 1) == 12);
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

TEST(ranks_count_the_flags_before) {
  in_every_order([](Block& block) {
    Block::PerThread<bool> flags(block);
    Block::PerThread<int32_t> ranks(block);
    block.for_threads([&](int thread) { flags[thread] = thread % 3 == 0; });
    CHECK(block.rank(flags, ranks) == (Block::kThreads + 2) / 3);
    for (int thread = 0; thread < Block::kThreads; ++thread) {
      CHECK(ranks[thread] == (thread + 2) / 3);
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

TEST(atomics_give_each_thread_its_own) {
  in_every_order([](Block& block) {
    Shared& shared = block.shared();
    shared.sum = 0;
    shared.last = -1;
    std::multiset<int64_t> added, taken, exchanged;
    block.for_threads([&](int) { added.insert(Block::add(&shared.sum, 2)); });
    CHECK(shared.sum == 256);
    block.for_threads([&](int) { Block::count(&shared.sum); });
    CHECK(shared.sum == 384);
    block.for_threads([&](int) { taken.insert(Block::take(&shared.sum)); });
    block.for_threads([&](int thread) { exchanged.insert(Block::exchange(&shared.last, thread)); });
    exchanged.insert(shared.last);
    int64_t i = 0;
    for (const int64_t value : added) CHECK(value == 2 * i++);
    for (const int64_t value : taken) CHECK(value == 384 + i++ - 128);
    i = -1;
    for (const int64_t value : exchanged) CHECK(value == i++);
    CHECK(i == 128);
  });
}

TEST(memory_that_nobody_wrote_is_garbage) {
  for (const uint32_t seed : {0u, 1u}) {
    Order order(seed);
    Block block(0, 0, order);
    Block::PerThread<int32_t> values(block);
    CHECK((block.shared().last < 0) == (seed == 0));
    CHECK((values[9] < 0) == (seed == 0));
    CHECK(block.keys()[7] == (seed == 0 ? 0xCDCDCDCDCDCDCDCDull : 0x2D2D2D2D2D2D2D2Dull));
  }
}

// Reads a neighbour's value in the phase that writes it (a race), or correctly in the next phase.
std::vector<int32_t> neighbours(Block& block, bool in_one_phase) {
  int32_t* values = block.shared().values;
  Block::PerThread<int32_t> result(block);
  block.for_threads([&](int thread) { values[thread] = 0; });
  const auto take = [&](int thread) { result[thread] = values[(thread + 1) % Block::kThreads]; };
  block.for_threads([&](int thread) {
    values[thread] = thread + 1;
    if (in_one_phase) take(thread);
  });
  if (!in_one_phase) block.for_threads(take);
  std::vector<int32_t> all;
  for (int thread = 0; thread < Block::kThreads; ++thread) all.push_back(result[thread]);
  return all;
}

TEST(a_race_shows_as_a_result_that_depends_on_the_order) {
  std::set<std::vector<int32_t>> right, racing;
  in_every_order([&](Block& block) { right.insert(neighbours(block, false)); });
  in_every_order([&](Block& block) { racing.insert(neighbours(block, true)); });
  CHECK(right.size() == 1);
  CHECK(racing.size() == 5);
}

}  // namespace

int main() { return afdet_test::run_all(); }
