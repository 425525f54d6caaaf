/* The start-up code of a rewritten file: puts the counters into the file that PROBELOOM_DATA names.
 *
 * It runs before the program (from the ELF entry point) or before a library's initialisers (from DT_INIT), in
 * any process: static, not yet relocated, without a C library, in Go, under musl. So it uses nothing but system
 * calls, addresses nothing but relative to itself, and gives back every register as it found it.
 *
 * The data segment of the rewritten file (jit/datafile.py) is at `probeloom_data`: a header page, the counters,
 * and a description of what they count. The data file has the same layout. Start-up maps the header and the
 * counters of the file over those of the segment, shared: from then on each increment is in the file, whatever
 * becomes of the process. Where counters are biased (see ir/carry.py), it also tells them the main thread by its
 * stack. Anything that fails (no such directory, disk full, no permission) leaves the counters
 * private to the process, silently: the program must behave as without instrumentation.
 *
 * `python -m jit.startup.generate` turns this file into startup.ll, which is compiled when a file is rewritten. */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

#define PAGE 4096ul
#define PATH_BYTES 4352ul   /* PATH_MAX and the '.MODULE' that may be appended */
#define ZERO_BYTES 65536ul
#define VARIABLE "PROBELOOM_DATA="
#define PROCESS 0x3FFFFFul  /* the number of a process in a claim: the kernel has none above it */
#define HIGH 0x7FF000000000ul /* Linux has the main thread's stack above, at the top of what there is for programs */
#define ATTEMPTS 2000       /* of a millisecond each, when another process renews the same file */

/* Kept equal to HEADER of jit/datafile.py. */
struct header {
    u64 magic;
    u32 version;
    u32 checksum;           /* CRC-32 of the description */
    u64 plan[4];            /* identifies this very rewrite: the counters of two plans have nothing in common */
    u64 module[2];          /* identifies the file that was rewritten, by its path */
    u64 size;               /* of the data file, in bytes */
    u64 counters_offset;
    u64 counters;           /* how many 64-bit words, private words of probes included */
    u64 additive;           /* how many of them, from the first, are counts (the others are words of probes) */
    u64 description_offset; /* page-aligned: what is before it is mapped */
    u64 description_size;
    u64 owner_offset;       /* page-aligned, behind the counters; 0 where these are not biased */
    u64 claim;              /* of a data file: the process whose main thread counts without a lock */
    char name[256];         /* file name of the module */
};

_Static_assert(sizeof(struct header) == 384, "HEADER of jit/datafile.py");

extern struct header probeloom_data __attribute__((visibility("hidden")));

/* Zeroed memory of our own, so that little of the program's stack is used. */
struct scratch {
    char value[PATH_BYTES]; /* of the variable */
    char path[PATH_BYTES];
    char temporary[PATH_BYTES];
    char input[PAGE];
    char zeros[ZERO_BYTES];
};

struct stat {
    u64 device, inode, links;
    u32 mode, uid, gid, pad0;
    u64 rdev;
    i64 size;
    u64 rest[11];
};

/* ---- system calls ------------------------------------------------------------------------------------ */

enum {
    SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_stat = 4, SYS_fstat = 5, SYS_mmap = 9,
    SYS_munmap = 11, SYS_pread64 = 17, SYS_madvise = 28, SYS_nanosleep = 35, SYS_getpid = 39, SYS_kill = 62,
    SYS_flock = 73, SYS_rename = 82, SYS_link = 86, SYS_unlink = 87, SYS_fchmod = 91, SYS_getrlimit = 97,
    SYS_renameat2 = 316,
};
enum { EINTR = 4, ENOENT = 2, ESRCH = 3, EEXIST = 17, EINVAL = 22, ENOSYS = 38, EWOULDBLOCK = 11 };
enum { O_RDONLY = 0, O_RDWR = 2, O_CREAT = 0100, O_EXCL = 0200, O_NOCTTY = 0400, O_NONBLOCK = 04000,
       O_CLOEXEC = 02000000 };
enum { PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_FIXED = 16, MAP_ANONYMOUS = 32 };
enum { LOCK_EX = 2, LOCK_NB = 4, AT_FDCWD = -100, RENAME_NOREPLACE = 1, RLIMIT_FSIZE = 1, RLIMIT_STACK = 3 };
enum { AT_SECURE = 23, AT_RANDOM = 25, MADV_WIPEONFORK = 18 };
enum { S_IFMT = 0170000, S_IFREG = 0100000 };

static i64 call6(i64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
    register u64 r10 __asm__("r10") = d;
    register u64 r8 __asm__("r8") = e;
    register u64 r9 __asm__("r9") = f;
    i64 result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static i64 call3(i64 number, u64 a, u64 b, u64 c) { return call6(number, a, b, c, 0, 0, 0); }

static int failed(i64 result) { return result < 0 && result >= -4095; }

static i64 open_file(const char *path, int flags, int mode) {
    i64 result;
    do
        result = call3(SYS_open, (u64)path, (u64)(flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), (u64)mode);
    while (result == -EINTR);
    return result;
}

static void close_file(i64 file) { call3(SYS_close, (u64)file, 0, 0); }

static i64 read_some(i64 file, void *into, u64 size) {
    i64 result;
    do
        result = call3(SYS_read, (u64)file, (u64)into, size);
    while (result == -EINTR);
    return result;
}

/* Returns 0, or -1 when not all could be written (disk full, quota). */
static int write_all(i64 file, const void *from, u64 size) {
    const u8 *next = from;
    while (size) {
        i64 done = call3(SYS_write, (u64)file, (u64)next, size);
        if (done == -EINTR)
            continue;
        if (done <= 0)
            return -1;
        next += done;
        size -= (u64)done;
    }
    return 0;
}

static void *map(u64 address, u64 size, int flags, i64 file) {
    i64 result = call6(SYS_mmap, address, size, PROT_READ | PROT_WRITE, (u64)flags, (u64)file, 0);
    return failed(result) ? 0 : (void *)result;
}

static void unmap(void *address, u64 size) { call3(SYS_munmap, (u64)address, size, 0); }

/* ---- strings ----------------------------------------------------------------------------------------- */

/* A string being written into a buffer of PATH_BYTES; `full` once it did not fit. */
struct text {
    char *start;
    u64 size;
    int full;
};

static void put(struct text *out, char c) {
    if (out->size + 1 >= PATH_BYTES) {
        out->full = 1;
        return;
    }
    out->start[out->size++] = c;
    out->start[out->size] = 0;
}

static void put_string(struct text *out, const char *string) {
    while (*string)
        put(out, *string++);
}

static void put_number(struct text *out, u64 number) {
    u64 scale = 1;
    while (number / scale >= 10)
        scale *= 10;
    for (; scale; scale /= 10)
        put(out, (char)('0' + number / scale % 10));
}

/* The value of VARIABLE if `entry` sets it, else 0. */
static const char *value_of(const char *entry) {
    const char *name = VARIABLE;
    while (*name)
        if (*name++ != *entry++)
            return 0;
    return entry;
}

/* ---- the variable ------------------------------------------------------------------------------------ */

/* From the stack as the kernel made it: argc, argv, 0, environment, 0, auxiliary vector. A set-user-id program
 * ignores the variable: its user must not make it write files. Returns 0 where there is nothing to do. */
static const char *variable_from_stack(const u64 *stack) {
    const char *found = 0;
    const u64 *next = stack + 1 + stack[0] + 1;
    for (; *next; next++)
        if (!found)
            found = value_of((const char *)*next);
    if (!found)
        return 0;
    for (next++; next[0]; next += 2)
        if (next[0] == AT_SECURE)
            return next[1] ? 0 : found;
    return 0;
}

/* What the kernel told the program of `kind` when it started it, or `otherwise`. */
static u64 told_by_kernel(struct scratch *scratch, u64 kind, u64 otherwise) {
    i64 file = open_file("/proc/self/auxv", O_RDONLY, 0);
    if (failed(file))
        return otherwise;
    u64 *pairs = (u64 *)scratch->input;
    i64 size = read_some(file, pairs, PAGE);
    close_file(file);
    for (i64 i = 0; (i + 2) * 8 <= size && pairs[i]; i += 2)
        if (pairs[i] == kind)
            return pairs[i + 1];
    return otherwise;
}

/* For libraries: not every loader passes the environment to initialisers, so ask the kernel. */
static const char *variable_from_proc(struct scratch *scratch) {
    i64 file = open_file("/proc/self/environ", O_RDONLY, 0);
    if (failed(file))
        return 0;
    const char *name = VARIABLE;
    const char *expected = name; /* 0 while in an entry that is not ours; at the final 0 of VARIABLE: the value */
    struct text value = {scratch->value, 0, 0};
    int found = 0;
    i64 size;
    while (!found && (size = read_some(file, scratch->input, PAGE)) > 0)
        for (i64 i = 0; i < size && !found; i++) {
            char c = scratch->input[i];
            if (expected && !*expected) {
                if (c)
                    put(&value, c);
                else
                    found = 1;
            } else if (!c)
                expected = name;
            else if (expected)
                expected = *expected == c ? expected + 1 : 0;
        }
    close_file(file);
    if (!found || value.full || told_by_kernel(scratch, AT_SECURE, 1))
        return 0;
    return scratch->value;
}

/* ---- the data file ----------------------------------------------------------------------------------- */

enum verdict { CURRENT, STALE, OTHER_MODULE, NOT_OURS };

static int same(const u64 *left, const u64 *right, int count) {
    for (int i = 0; i < count; i++)
        if (left[i] != right[i])
            return 0;
    return 1;
}

/* What an existing file is to us. An empty one (mktemp) is as good as none: stale. */
static enum verdict inspect(i64 file, const struct stat *status, struct header *found) {
    const struct header *mine = &probeloom_data;
    if ((status->mode & S_IFMT) != S_IFREG)
        return NOT_OURS;
    if (status->size == 0)
        return STALE;
    i64 size = call6(SYS_pread64, (u64)file, (u64)found, sizeof *found, 0, 0, 0);
    if (size != sizeof *found || found->magic != mine->magic)
        return NOT_OURS;
    if (!same(found->module, mine->module, 2))
        return OTHER_MODULE;
    if (found->version != mine->version || !same(found->plan, mine->plan, 4) || found->size != mine->size ||
        (u64)status->size != mine->size)
        return STALE;
    return CURRENT;
}

/* Every byte is written, so that a full disk shows here and not as SIGBUS at some later increment. */
static int write_new(i64 file, const struct scratch *scratch) {
    const struct header *mine = &probeloom_data;
    u64 limit[2];
    if (failed(call3(SYS_getrlimit, RLIMIT_FSIZE, (u64)limit, 0)) || limit[0] < mine->size)
        return -1; /* a write beyond the limit would end the program with SIGXFSZ */
    if (write_all(file, mine, sizeof *mine))
        return -1;
    for (u64 left = mine->description_offset - sizeof *mine; left;) {
        u64 part = left < ZERO_BYTES ? left : ZERO_BYTES;
        if (write_all(file, scratch->zeros, part))
            return -1;
        left -= part;
    }
    return write_all(file, (const u8 *)mine + mine->description_offset, mine->size - mine->description_offset);
}

/* Moves the temporary file to `path`. With `replace` 0 it never overwrites: -EEXIST then. */
static i64 publish(const char *temporary, const char *path, int replace) {
    if (replace)
        return call3(SYS_rename, (u64)temporary, (u64)path, 0);
    i64 result = call6(SYS_renameat2, (u64)AT_FDCWD, (u64)temporary, (u64)AT_FDCWD, (u64)path, RENAME_NOREPLACE, 0);
    if (result == -EINVAL || result == -ENOSYS) { /* not on this file system or kernel */
        result = call3(SYS_link, (u64)temporary, (u64)path, 0);
        if (!result)
            call3(SYS_unlink, (u64)temporary, 0, 0);
    }
    return result;
}

/* Makes a complete data file beside `path`, then puts it there in one step. Returns it open, or an error. */
static i64 create(struct scratch *scratch, int replace, int mode) {
    struct text name = {scratch->temporary, 0, 0};
    u64 directory = 0;
    for (u64 i = 0; scratch->path[i]; i++)
        if (scratch->path[i] == '/')
            directory = i + 1;
    for (u64 i = 0; i < directory; i++)
        put(&name, scratch->path[i]);
    put_string(&name, ".probeloom-");
    put_number(&name, (u64)call3(SYS_getpid, 0, 0, 0));
    u64 stem = name.size;
    i64 file = -EEXIST;
    /* A name may be taken: by a process of another container, or one that was killed here. */
    for (u64 i = 0; i < 100 && file == -EEXIST; i++) {
        name.size = stem;
        put(&name, '-');
        put_number(&name, i);
        if (name.full)
            return -1;
        file = open_file(scratch->temporary, O_RDWR | O_CREAT | O_EXCL, 0666);
    }
    if (failed(file))
        return file;
    i64 result = write_new(file, scratch);
    if (!result && replace)
        result = call3(SYS_fchmod, (u64)file, (u64)(mode & 0777), 0);
    if (!result)
        result = publish(scratch->temporary, scratch->path, replace);
    if (!result)
        return file;
    close_file(file);
    call3(SYS_unlink, (u64)scratch->temporary, 0, 0);
    return result;
}

/* Two processes may find the same stale file: only the one that locks it while it still has its name renews it. */
static i64 renew(struct scratch *scratch, i64 file, const struct stat *status) {
    struct stat now;
    if (call3(SYS_flock, (u64)file, LOCK_EX | LOCK_NB, 0) == -EWOULDBLOCK)
        return -EWOULDBLOCK;
    if (failed(call3(SYS_stat, (u64)scratch->path, (u64)&now, 0)) || now.device != status->device ||
        now.inode != status->inode)
        return -EEXIST;
    return create(scratch, 1, (int)status->mode);
}

/* Opens or makes the data file at scratch->path. Returns it, or an error; *verdict says of an existing one what
 * it is. */
static i64 open_data(struct scratch *scratch, enum verdict *verdict) {
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        struct stat status;
        i64 file = open_file(scratch->path, O_RDWR, 0);
        i64 result;
        *verdict = NOT_OURS;
        if (file == -ENOENT) {
            result = create(scratch, 0, 0);
            if (result != -EEXIST)
                return result;
            continue;
        }
        if (failed(file))
            return file;
        if (failed(call3(SYS_fstat, (u64)file, (u64)&status, 0))) {
            close_file(file);
            return -1;
        }
        *verdict = inspect(file, &status, (struct header *)scratch->input);
        if (*verdict == CURRENT)
            return file;
        if (*verdict != STALE) {
            close_file(file);
            return -1;
        }
        result = renew(scratch, file, &status);
        close_file(file);
        if (result != -EEXIST && result != -EWOULDBLOCK)
            return result;
        if (result == -EWOULDBLOCK) {
            u64 millisecond[2] = {0, 1000000};
            call3(SYS_nanosleep, (u64)millisecond, 0, 0);
        }
    }
    return -1;
}

/* What was counted before (by resolvers of indirect functions, by preinit functions) is not lost. */
static void add_private(u64 *shared) {
    const struct header *mine = &probeloom_data;
    const u64 *private = (const u64 *)((const u8 *)mine + mine->counters_offset);
    shared += mine->counters_offset / sizeof *shared;
    for (u64 i = 0; i < mine->counters; i++) {
        u64 nothing = 0;
        if (!private[i])
            continue;
        if (i < mine->additive)
            __atomic_fetch_add(&shared[i], private[i], __ATOMIC_RELAXED);
        else
            __atomic_compare_exchange_n(&shared[i], &nothing, private[i], 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
}

/* Returns whether counters are in the file from now on. */
static int map_counters(i64 file) {
    u64 size = probeloom_data.description_offset;
    u64 *shared = map(0, size, MAP_SHARED, file);
    if (!shared)
        return 0;
    add_private(shared);
    int done = map((u64)&probeloom_data, size, MAP_SHARED | MAP_FIXED, file) != 0;
    unmap(shared, size);
    return done;
}

/* ---- the owner word ---------------------------------------------------------------------------------- */

/* Whether this process is the one whose main thread counts in the data file without a lock: none other may have
 * claimed that which still runs. One that has this one's number is gone (or it is this one, and exec started the
 * program anew). Every claim makes another word, so that of several who see the same one only the first gets it. */
static int claim(void) {
    u64 *place = &probeloom_data.claim;
    struct stat status;
    if (failed(call3(SYS_stat, (u64)"/proc/self/ns/pid", (u64)&status, 0)))
        return 0; /* the number of a process says nothing without its namespace */
    u64 process = (u64)call3(SYS_getpid, 0, 0, 0);
    u64 found = __atomic_load_n(place, __ATOMIC_RELAXED);
    u64 other = found & PROCESS;
    if (found && ((u32)(found >> 32) != (u32)status.inode ||
                  (other != process && call3(SYS_kill, other, 0, 0) != -ESRCH)))
        return 0;
    u64 claimed = status.inode << 32 | ((found + PROCESS + 1) & ~PROCESS & 0xFFFFFFFF) | process;
    return __atomic_compare_exchange_n(place, &found, claimed, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* Has the main thread count without a lock. `inside` is an address of its stack, above all that it has called.
 *
 * No other stack comes to lie above the lowest address to which the main thread's may grow. Its limit may have been
 * raised since, so not more than the usual one is believed; a quarter of it may be above `inside` (the arguments).
 * An emulator may have put the stack anywhere, and others above it. */
static void own(u64 inside, int shared) {
    u64 *owner = (u64 *)((u8 *)&probeloom_data + probeloom_data.owner_offset);
    u64 limit[2];
    u64 most = 8ul << 20;
    if (inside < HIGH || failed(call3(SYS_getrlimit, RLIMIT_STACK, (u64)limit, 0)))
        return;
    if (limit[0] < most)
        most = limit[0];
    /* A child that fork makes counts in the same file: there nobody owns it. */
    if (shared && (!claim() || !map((u64)owner, PAGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1) ||
                   failed(call3(SYS_madvise, (u64)owner, PAGE, MADV_WIPEONFORK))))
        return;
    *owner = 1ul << 63 | (inside - most / 4 * 3);
}

/* %p: the process, %m: the module's file name, %%: a percent sign. A child made by fork goes on counting in its
 * parent's file, %p or not: start-up does not run again. One made by exec opens its own. */
static void expand(struct text *path, const char *value) {
    for (; *value; value++)
        if (*value == '%' && value[1] == 'p') {
            put_number(path, (u64)call3(SYS_getpid, 0, 0, 0));
            value++;
        } else if (*value == '%' && value[1] == 'm') {
            put_string(path, probeloom_data.name);
            value++;
        } else {
            put(path, *value);
            if (*value == '%' && value[1] == '%')
                value++;
        }
}

/* `stack` is the initial stack of an executable, 0 in a library. */
__attribute__((visibility("hidden"))) void probeloom_startup(const u64 *stack) {
    const char *value = stack ? variable_from_stack(stack) : 0;
    u64 inside = (u64)stack;
    int shared = 0;
    if (stack && !value) {
        if (probeloom_data.owner_offset)
            own(inside, 0);
        return;
    }
    struct scratch *scratch = map(0, sizeof *scratch, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    if (!scratch)
        return;
    if (!stack)
        value = variable_from_proc(scratch);
    if (value && *value) {
        struct text path = {scratch->path, 0, 0};
        enum verdict verdict = NOT_OURS;
        expand(&path, value);
        i64 file = path.full ? -1 : open_data(scratch, &verdict);
        if (failed(file) && verdict == OTHER_MODULE) {
            put(&path, '.');
            put_string(&path, probeloom_data.name);
            file = path.full ? -1 : open_data(scratch, &verdict);
        }
        if (!failed(file)) {
            shared = map_counters(file);
            close_file(file);
        }
    }
    if (!stack && probeloom_data.owner_offset)
        inside = told_by_kernel(scratch, AT_RANDOM, 0);
    if (probeloom_data.owner_offset)
        own(inside, shared);
    unmap(scratch, sizeof *scratch);
}

/* The two ways in. All general registers and the flags are given back; vector and x87 registers are not used.
 * At original_entry RSP is what it was here. */
__asm__(".text\n"
        ".globl program_start\n"
        "program_start:\n"
        "  endbr64\n"
        "  pushfq\n"
        "  pushq %rdi\n"
        "  leaq 16(%rsp), %rdi\n"
        "  jmp .Lsave\n"
        ".globl library_start\n"
        "library_start:\n"
        "  endbr64\n"
        "  pushfq\n"
        "  pushq %rdi\n"
        "  xorl %edi, %edi\n"
        ".Lsave:\n"
        "  pushq %rax\n  pushq %rbx\n  pushq %rcx\n  pushq %rdx\n  pushq %rsi\n  pushq %rbp\n  pushq %r8\n"
        "  pushq %r9\n  pushq %r10\n  pushq %r11\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  cld\n"
        "  movq %rsp, %rbp\n"
        "  andq $-16, %rsp\n"
        "  call probeloom_startup\n"
        "  movq %rbp, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %r11\n  popq %r10\n  popq %r9\n  popq %r8\n"
        "  popq %rbp\n  popq %rsi\n  popq %rdx\n  popq %rcx\n  popq %rbx\n  popq %rax\n  popq %rdi\n"
        "  popfq\n"
        "  jmp original_entry\n"
        ".globl no_original_entry\n"
        "no_original_entry:\n"
        "  ret\n");
