// Covers: std::thread, std::atomic, std::async, futures and exceptions through them, call_once, thread_local objects with
//         destructors, condition variables, shared_mutex.
// Expected: prints fixed results, exit 0.
// flags: -std=c++17 -pthread
// threads: yes
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <future>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static std::atomic<long> constructed{0}, destroyed{0};
struct Local { long v = 3; Local() { constructed++; } ~Local() { destroyed += v > 3 ? 1 : 0; } };
static thread_local Local local;
static std::once_flag once;
static int once_count;
static std::mutex mutex;
static std::shared_mutex shared;
static std::atomic<double> total{0};

__attribute__((noinline)) static long work(int id) {
    std::call_once(once, [] { once_count++; });
    long s = 0;
    for (int i = 0; i < 1000; i++) {
        local.v += i ^ id;
        s = s * 3 + local.v;
        if (i % 50 == 0) { std::lock_guard<std::mutex> g(mutex); double d = total.load(); while (!total.compare_exchange_weak(d, d + i)) {} }
        if (i % 100 == 7) { std::unique_lock<std::shared_mutex> g(shared); once_count += 0; }
        else if (i % 100 == 9) { std::shared_lock<std::shared_mutex> g(shared); s += once_count; }
    }
    if (id == 3) throw std::runtime_error("worker " + std::to_string(id));
    return s;
}
static long parallel_sum(const std::vector<long> &v, size_t from, size_t to) {
    if (to - from < 500) return std::accumulate(v.begin() + static_cast<long>(from), v.begin() + static_cast<long>(to), 0L);
    size_t m = (from + to) / 2;
    auto left = std::async(std::launch::async, parallel_sum, std::cref(v), from, m);
    long right = parallel_sum(v, m, to);
    return left.get() + right;
}
int main() {
    std::vector<std::future<long>> futures;
    for (int i = 0; i < 5; i++) futures.push_back(std::async(std::launch::async, work, i));
    for (auto &f : futures) {
        try { std::printf("%ld\n", f.get()); } catch (const std::exception &e) { std::printf("caught %s\n", e.what()); }
    }
    std::printf("once %d total %.1f\n", once_count, total.load());
    std::vector<long> v(4000);
    std::iota(v.begin(), v.end(), 1);
    std::printf("sum %ld\n", parallel_sum(v, 0, v.size()));
    std::condition_variable condition;
    int turn = 0;
    std::string order;
    auto player = [&](int id) { for (int i = 0; i < 100; i++) { std::unique_lock<std::mutex> l(mutex); condition.wait(l, [&] { return turn == id; }); order += static_cast<char>('a' + id); turn = 1 - id; condition.notify_all(); } };
    std::thread a(player, 0), b(player, 1);
    a.join();
    b.join();
    std::printf("order %zu %s\n", order.size(), order.substr(0, 6).c_str());
    std::promise<int> promise;
    std::thread setter([&promise] { promise.set_exception(std::make_exception_ptr(std::out_of_range("promised"))); });
    try { promise.get_future().get(); } catch (const std::out_of_range &e) { std::printf("%s\n", e.what()); }
    setter.join();
    std::printf("locals %ld %ld\n", constructed.load(), destroyed.load());
    return 0;
}
