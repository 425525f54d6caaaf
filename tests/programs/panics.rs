// Covers: Rust: panics caught by catch_unwind with destructors, traits and dynamic dispatch, iterators, closures, enums and
//         matches, threads with channels and atomics, strings, collections, checked arithmetic, 128-bit integers, slices.
// Expected: prints fixed results, exit 6.
// exit: 6
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;

static DROPS: AtomicUsize = AtomicUsize::new(0);

struct Guard(usize);
impl Drop for Guard {
    fn drop(&mut self) {
        DROPS.fetch_add(self.0, Ordering::SeqCst);
    }
}

trait Shape {
    fn area(&self) -> f64;
    fn name(&self) -> String { String::from("shape") }
}
struct Rect(f64, f64);
struct Circle { r: f64 }
impl Shape for Rect {
    fn area(&self) -> f64 { self.0 * self.1 }
    fn name(&self) -> String { format!("rect {}x{}", self.0, self.1) }
}
impl Shape for Circle {
    fn area(&self) -> f64 { 3.0 * self.r * self.r }
}

#[derive(Debug, Clone, PartialEq)]
enum Expr { Num(i64), Add(Box<Expr>, Box<Expr>), Mul(Box<Expr>, Box<Expr>), Neg(Box<Expr>), Var(String) }

#[inline(never)]
fn eval(e: &Expr, env: &HashMap<String, i64>) -> Result<i64, String> {
    Ok(match e {
        Expr::Num(n) => *n,
        Expr::Add(a, b) => eval(a, env)?.checked_add(eval(b, env)?).ok_or("overflow")?,
        Expr::Mul(a, b) => eval(a, env)?.checked_mul(eval(b, env)?).ok_or_else(|| "overflow in mul".to_string())?,
        Expr::Neg(a) => -eval(a, env)?,
        Expr::Var(v) => *env.get(v).ok_or(format!("unbound {}", v))?,
    })
}

#[inline(never)]
fn build(depth: u32, seed: &mut u64) -> Expr {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    let pick = (*seed >> 40) % 5;
    if depth == 0 { return if pick < 4 { Expr::Num((*seed >> 50) as i64) } else { Expr::Var("x".into()) }; }
    match pick {
        0 | 1 => Expr::Add(Box::new(build(depth - 1, seed)), Box::new(build(depth - 1, seed))),
        2 | 3 => Expr::Mul(Box::new(build(depth - 1, seed)), Box::new(build(depth - 1, seed))),
        _ => Expr::Neg(Box::new(build(depth - 1, seed))),
    }
}

#[inline(never)]
fn risky(n: usize) -> usize {
    let _a = Guard(n);
    let v: Vec<usize> = (0..10).collect();
    let _b = Guard(1);
    match n % 6 {
        0 => v[n + 10],
        1 => panic!("explicit {}", n),
        2 => v.iter().skip(20).next().copied().unwrap(),
        3 => "x".parse::<usize>().expect("not a number"),
        4 => n / (v.len() - 10 - v[0]),
        _ => v.iter().sum(),
    }
}

fn main() {
    panic::set_hook(Box::new(|_| {}));
    let mut caught = 0usize;
    let mut fine = 0usize;
    for n in 0..60 {
        match panic::catch_unwind(|| risky(n)) { Ok(v) => fine += v, Err(_) => caught += n }
    }
    println!("caught {} fine {} drops {}", caught, fine, DROPS.load(Ordering::SeqCst));
    let shapes: Vec<Box<dyn Shape>> = vec![Box::new(Rect(2.0, 3.5)), Box::new(Circle { r: 2.0 })];
    println!("{:?}", shapes.iter().map(|s| (s.name(), s.area())).collect::<Vec<_>>());
    let mut env = HashMap::new();
    env.insert("x".to_string(), 7);
    let mut seed = 99u64;
    let mut sum = 0i64;
    let mut errors = BTreeMap::new();
    for i in 0..300 {
        match eval(&build(i % 6, &mut seed), &env) { Ok(v) => sum = sum.wrapping_mul(31).wrapping_add(v), Err(e) => *errors.entry(e).or_insert(0) += 1 }
    }
    println!("eval {} {:?}", sum, errors);
    let (tx, rx) = mpsc::channel();
    let total = Arc::new(Mutex::new(0u64));
    let handles: Vec<_> = (0..8u64).map(|id| {
        let (tx, total) = (tx.clone(), Arc::clone(&total));
        thread::spawn(move || {
            for i in 0..200u64 { *total.lock().unwrap() += i ^ id; if i % 20 == 0 { tx.send(id * 1000 + i).unwrap(); } }
            if id == 5 { panic!("thread") }
            id * 2
        })
    }).collect();
    drop(tx);
    let mut got: Vec<u64> = rx.iter().collect();
    got.sort_unstable();
    let joined: Vec<Option<u64>> = handles.into_iter().map(|h| h.join().ok()).collect();
    println!("threads {} {:?} {}", got.iter().fold(0u64, |a, b| a.wrapping_mul(31).wrapping_add(*b)), joined, total.lock().unwrap());
    let text = "the quick brown fox jumps over the lazy dog and the cat";
    let mut words: BTreeMap<&str, usize> = BTreeMap::new();
    for w in text.split_whitespace() { *words.entry(w).or_default() += w.len(); }
    println!("{:?}", words);
    let mut queue: VecDeque<u128> = (1..20u128).collect();
    let mut big = 1u128;
    while let Some(v) = queue.pop_front() { big = big.wrapping_mul(v * 1_000_003).rotate_left(7) ^ v; if v % 5 == 0 && big % 3 == 0 { queue.push_back(v + 1); } }
    println!("big {} {}", big, (big >> 64) as u64 % 1000);
    let primes: Vec<u32> = (2..200u32).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).collect();
    println!("primes {} {:?}", primes.len(), primes.iter().rev().take(3).collect::<Vec<_>>());
    let shared = Rc::new(Guard(1000));
    let copies: Vec<Rc<Guard>> = (0..5).map(|_| Rc::clone(&shared)).collect();
    println!("rc {}", Rc::strong_count(&copies[0]));
    drop(copies);
    drop(shared);
    println!("drops {} {}", DROPS.load(Ordering::SeqCst), "déjà vu ✓".chars().rev().collect::<String>());
    std::process::exit(6);
}
