// Covers: libstdc++ templates instantiated in the program: sort, stable_sort, map, unordered_map, set, deque, list,
//         priority_queue, string, string streams, iterators, algorithms, shared_ptr.
// Expected: prints fixed results, exit 0.
// flags: -std=c++17
#include <algorithm>
#include <deque>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

struct Record { std::string name; int age; double score; bool operator<(const Record &o) const { return age != o.age ? age < o.age : name < o.name; } };
struct Node { std::shared_ptr<Node> next; std::weak_ptr<Node> back; int v = 0; };

__attribute__((noinline)) static long hash(const std::string &s) { long h = 7; for (char c : s) h = h * 131 + c; return h; }

int main() {
    std::mt19937 random(12345);
    std::vector<Record> records;
    for (int i = 0; i < 400; i++) records.push_back({"name" + std::to_string(random() % 1000), static_cast<int>(random() % 60), static_cast<double>(random() % 1000) / 7});
    std::sort(records.begin(), records.end());
    long h = 0;
    for (const auto &r : records) h = h * 3 + hash(r.name) + r.age;
    std::stable_sort(records.begin(), records.end(), [](const Record &a, const Record &b) { return a.score < b.score; });
    for (const auto &r : records) h = h * 3 + r.age;
    std::cout << "sort " << h << "\n";
    std::map<std::string, int> words;
    std::unordered_map<std::string, long> sums;
    std::istringstream text("the quick brown fox jumps over the lazy dog and the quick cat sleeps over the fox");
    for (std::string w; text >> w;) { words[w]++; sums[w.substr(0, 1)] += static_cast<long>(w.size()); }
    for (const auto &w : words) std::cout << w.first << '=' << w.second << ' ';
    std::vector<std::pair<std::string, long>> sorted(sums.begin(), sums.end());
    std::sort(sorted.begin(), sorted.end());
    for (const auto &s : sorted) std::cout << s.first << s.second;
    std::cout << "\n" << std::hex << std::setw(10) << std::setfill('*') << 48879 << std::dec << ' ' << std::fixed << std::setprecision(3) << 3.14159 << ' ' << std::boolalpha << true << "\n";
    std::set<int> set;
    std::deque<int> deque;
    std::list<int> list;
    std::priority_queue<int, std::vector<int>, std::greater<int>> queue;
    for (int i = 0; i < 500; i++) {
        int v = static_cast<int>(random() % 300);
        set.insert(v);
        if (v & 1) deque.push_front(v); else deque.push_back(v);
        list.push_back(v);
        queue.push(v);
        if (i % 3 == 0) { set.erase(set.begin()); queue.pop(); deque.pop_back(); }
    }
    list.sort();
    list.unique();
    list.reverse();
    long s = 0;
    for (int v : set) s = s * 3 + v;
    for (int v : deque) s = s * 3 + v;
    for (int v : list) s = s * 3 + v;
    while (!queue.empty()) { s = s * 3 + queue.top(); queue.pop(); }
    std::cout << "containers " << s << "\n";
    std::vector<int> v(100), w;
    std::generate(v.begin(), v.end(), [&random] { return static_cast<int>(random() % 50); });
    std::copy_if(v.begin(), v.end(), std::back_inserter(w), [](int x) { return x > 20; });
    std::transform(w.begin(), w.end(), w.begin(), [](int x) { return x * x; });
    std::nth_element(v.begin(), v.begin() + 50, v.end());
    std::make_heap(w.begin(), w.end());
    std::sort_heap(w.begin(), w.end());
    std::rotate(w.begin(), w.begin() + 5, w.end());
    std::ostringstream out;
    std::copy(w.begin(), w.end(), std::ostream_iterator<int>(out, ","));
    std::cout << "median " << v[50] << " copy " << hash(out.str()) << "\n";
    std::string str = "permute";
    std::sort(str.begin(), str.end());
    int permutations = 0;
    do permutations += str[0] == 'p'; while (std::next_permutation(str.begin(), str.end()));
    std::cout << "permutations " << permutations << "\n";
    auto first = std::make_shared<Node>();
    for (auto [n, i] = std::pair{first, 0}; i < 50; i++) { n->next = std::make_shared<Node>(); n->next->back = n; n->next->v = n->v + i; n = n->next; }
    long chain = 0;
    for (auto n = first; n; n = n->next) chain += n->v + (n->back.lock() ? 1 : 0);
    std::cout << "chain " << chain << " " << first.use_count() << std::endl;
    return 0;
}
