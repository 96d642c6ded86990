/* cmf.h: record what a C or C++ program does in the run of cmf that it was started in.
 *
 *     cmf_run run;
 *     cmf_open(&run);
 *     cmf_param_number(&run, "lr", 0.1);
 *     const char *names[] = {"loss"};
 *     double values[] = {0.25};
 *     cmf_log(&run, 1, 1, names, values);
 *     cmf_event(&run, "output", "model.bin", "model", "detector");
 *     cmf_close(&run);
 *
 * Include it before any other header, or compile with _XOPEN_SOURCE 700. It needs the C library alone; C99 or C++11.
 *
 * Every function returns 0, or -1 if it could not record. None prints, exits or changes the program's result. Outside a
 * run `cmf_open` returns -1, and so does every call on its handle. Texts are UTF-8 and end with NUL; names have at most
 * 512 characters. A handle belongs to one thread and to one process: in a forked child its calls return -1, and the
 * child opens one of its own.
 *
 * It writes a journal of its own beside those of the other processes: docs/reference/format.md, section 7.
 */
#ifndef CMF_H
#define CMF_H

#if defined(__STRICT_ANSI__) && !defined(_XOPEN_SOURCE)
#define _XOPEN_SOURCE 700
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#if !defined(O_CLOEXEC) || !defined(CLOCK_REALTIME)
#error "Include cmf.h before any other header, or compile with -D_XOPEN_SOURCE=700."
#endif

#define CMF_ROWS_MAX 4096
#define CMF_NAMES_MAX 200
#define CMF_INTEGER_MAX 9007199254740992LL

typedef struct cmf_text { /* bytes that grow; `bad` once something could not be added */
    unsigned char *at;
    size_t size, room;
    int bad;
} cmf_text;

typedef struct cmf_set { /* one set of names, in the order in which they were given, and its rows that wait */
    struct cmf_set *next;
    struct cmf_set *keeper; /* whose rows they are: its own, or those of the same names in another order */
    long long first;
    size_t n, rows, room;
    char **names;
    size_t *order; /* which of the names is the first, second, ... when they are sorted */
    char *json;    /* the sorted names */
    int64_t *steps, *times;
    double *values; /* row by row, in the order of the sorted names */
} cmf_set;

typedef struct cmf_run {
    int file; /* of the journal; -1: none */
    int broken, live;
    long pid, rank;
    long long end, last, flushed, dropped;
    char *scope, *id, *attempt, *folder, *root;
    cmf_set *sets, *recent;
    uint32_t crc[256];
} cmf_run;

/* Find the run that this process was started in, and begin a journal for it. */
static inline int cmf_open(cmf_run *run);

/* Add one row of step metrics: n values by name. Rows wait in memory and are written at the next call a second later,
 * when 4096 of them wait, by `cmf_flush`, and by `cmf_close`; what is written survives the process being killed. */
static inline int cmf_log(cmf_run *run, long long step, size_t n, const char *const *names, const double *values);

/* Write the rows that wait. */
static inline int cmf_flush(cmf_run *run);

/* Record a final metric, or a parameter. Secrets are not recognised here: give none. */
static inline int cmf_metric(cmf_run *run, const char *name, double value);
static inline int cmf_param_number(cmf_run *run, const char *name, double value);
static inline int cmf_param_text(cmf_run *run, const char *name, const char *value);

/* Record that the run used ("input") or made ("output") a file, and keep a copy of it. type and name may be NULL. */
static inline int cmf_event(cmf_run *run, const char *direction, const char *path, const char *type, const char *name);

/* Write what waits, make it survive power loss, and end the journal. */
static inline int cmf_close(cmf_run *run);

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static inline void cmf_i_add(cmf_text *text, const void *bytes, size_t size) {
    if (size > text->room - text->size) {
        size_t room = (text->size + size) * 2 + 256;
        unsigned char *at = text->bad ? NULL : (unsigned char *)realloc(text->at, room);
        if (!at) {
            text->bad = 1;
            return;
        }
        text->at = at;
        text->room = room;
    }
    if (size) memcpy(text->at + text->size, bytes, size);
    text->size += size;
}

static inline void cmf_i_say(cmf_text *text, const char *words) { cmf_i_add(text, words, strlen(words)); }

static inline void cmf_i_integer(cmf_text *text, long long number) {
    char digits[32];
    snprintf(digits, sizeof digits, "%lld", number);
    cmf_i_say(text, digits);
}

static inline void cmf_i_little(unsigned char *at, uint64_t number, int bytes) {
    int i;
    for (i = 0; i < bytes; i++) at[i] = (unsigned char)(number >> (8 * i));
}

static inline void cmf_i_add_little(cmf_text *text, uint64_t number, int bytes) {
    unsigned char at[8];
    cmf_i_little(at, number, bytes);
    cmf_i_add(text, at, (size_t)bytes);
}

/* Return how many characters a UTF-8 text has, or -1 if it is none. */
static inline long cmf_i_characters(const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    long count = 0;
    while (*at) {
        uint32_t code = *at++;
        uint32_t least = code < 0xE0 ? 0x80 : code < 0xF0 ? 0x800 : 0x10000;
        int more = code < 0x80 ? 0 : code < 0xC2 ? -1 : code < 0xE0 ? 1 : code < 0xF0 ? 2 : code < 0xF5 ? 3 : -1;
        if (more < 0) return -1;
        if (more > 0) {
            code &= 0x3Fu >> more;
            for (; more > 0; more--, at++) {
                if ((*at & 0xC0) != 0x80) return -1;
                code = code << 6 | (*at & 0x3Fu);
            }
            if (code < least || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return -1;
        }
        count++;
    }
    return count;
}

static inline int cmf_i_is_text(const char *text, long most) {
    long count = text ? cmf_i_characters(text) : -1;
    return count >= 0 && count <= most;
}

/* Add what stands between the quotes of a JSON string, in the one spelling that the profile allows. */
static inline void cmf_i_escaped(cmf_text *text, const char *words) {
    static const char letters[] = "btn?fr"; /* of the characters 8 to 13 */
    char escape[8];
    for (; *words; words++) {
        unsigned char c = (unsigned char)*words;
        if (c == '"' || c == '\\')
            snprintf(escape, sizeof escape, "\\%c", c);
        else if (c >= 8 && c <= 13 && c != 11)
            snprintf(escape, sizeof escape, "\\%c", letters[c - 8]);
        else if (c < 0x20)
            snprintf(escape, sizeof escape, "\\u%04x", c);
        else {
            cmf_i_add(text, &c, 1);
            continue;
        }
        cmf_i_say(text, escape);
    }
}

static inline void cmf_i_string(cmf_text *text, const char *words) {
    cmf_i_say(text, "\"");
    cmf_i_escaped(text, words);
    cmf_i_say(text, "\"");
}

/* Add a member of an object: its key with the comma before and the colon after, and a string. */
static inline void cmf_i_member(cmf_text *text, const char *key, const char *value) {
    cmf_i_say(text, key);
    cmf_i_string(text, value);
}

static inline void cmf_i_number(cmf_text *text, double number) {
    char digits[64], plain[64];
    size_t from, to = 0;
    int precision, is_whole = 1;
    if (number != number || number - number != 0) {
        cmf_i_say(text, number != number ? "{\"$f\":\"nan\"}" : number > 0 ? "{\"$f\":\"inf\"}" : "{\"$f\":\"-inf\"}");
        return;
    }
    if (number >= -(double)CMF_INTEGER_MAX && number <= (double)CMF_INTEGER_MAX && number == (double)(long long)number) {
        cmf_i_integer(text, (long long)number);
        return;
    }
    for (precision = 15; precision <= 17; precision++) { /* the shortest that reads back as the same number */
        snprintf(digits, sizeof digits, "%.*g", precision, number);
        if (strtod(digits, NULL) == number) break;
    }
    for (from = 0; digits[from]; from++) { /* whatever the locale's decimal point is, JSON's is '.' */
        char c = digits[from];
        int is_part = (c >= '0' && c <= '9') || c == '-' || c == '+' || c == 'e';
        if (!is_part && to && plain[to - 1] == '.') continue;
        plain[to++] = is_part ? c : '.';
        if (!is_part || c == 'e') is_whole = 0;
    }
    cmf_i_add(text, plain, to);
    if (is_whole) cmf_i_say(text, ".0"); /* an integer may not be so large */
}

/* ---- SHA-256 ---------------------------------------------------------------------------------------------------- */

typedef struct cmf_sha {
    uint32_t state[8];
    unsigned char block[64];
    uint64_t size;
} cmf_sha;

static inline uint32_t cmf_i_turn(uint32_t x, int by) { return x >> by | x << (32 - by); }

static inline void cmf_i_sha_block(cmf_sha *sha, const unsigned char *block) {
    static const uint32_t k[64] = {
        0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
        0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
        0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
        0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
        0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
        0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
        0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
        0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};
    uint32_t w[64], s[8];
    int i;
    for (i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (cmf_i_turn(a, 7) ^ cmf_i_turn(a, 18) ^ a >> 3) + w[i - 7] +
               (cmf_i_turn(b, 17) ^ cmf_i_turn(b, 19) ^ b >> 10);
    }
    memcpy(s, sha->state, sizeof s);
    for (i = 0; i < 64; i++) {
        uint32_t one = s[7] + (cmf_i_turn(s[4], 6) ^ cmf_i_turn(s[4], 11) ^ cmf_i_turn(s[4], 25)) +
                       ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
        uint32_t two = (cmf_i_turn(s[0], 2) ^ cmf_i_turn(s[0], 13) ^ cmf_i_turn(s[0], 22)) +
                       ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + two;
    }
    for (i = 0; i < 8; i++) sha->state[i] += s[i];
}

static inline void cmf_i_sha_begin(cmf_sha *sha) {
    static const uint32_t first[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                      0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
    memcpy(sha->state, first, sizeof first);
    sha->size = 0;
}

static inline void cmf_i_sha_add(cmf_sha *sha, const unsigned char *bytes, size_t size) {
    while (size) {
        size_t at = (size_t)(sha->size % 64), part = size < 64 - at ? size : 64 - at;
        if (part == 64)
            cmf_i_sha_block(sha, bytes);
        else {
            memcpy(sha->block + at, bytes, part);
            if (at + part == 64) cmf_i_sha_block(sha, sha->block);
        }
        sha->size += part;
        bytes += part;
        size -= part;
    }
}

static inline void cmf_i_sha_end(cmf_sha *sha, char hex[65]) {
    static const unsigned char pad[64] = {0x80};
    unsigned char bits[8];
    uint64_t size = sha->size;
    int i;
    cmf_i_sha_add(sha, pad, (size_t)(1 + (119 - size % 64) % 64));
    for (i = 0; i < 8; i++) bits[i] = (unsigned char)(size * 8 >> (56 - 8 * i));
    cmf_i_sha_add(sha, bits, 8);
    for (i = 0; i < 8; i++) snprintf(hex + 8 * i, 9, "%08x", (unsigned)sha->state[i]);
}

/* ---- the process ------------------------------------------------------------------------------------------------ */

/* Read a small file into a text that ends with NUL, without blanks at its end; an empty one if it can't be read. */
static inline void cmf_i_small(const char *path, char *text, size_t room) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, text, room - 1);
    if (file >= 0) close(file);
    if (size < 0) size = 0;
    while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == ' ')) size--;
    text[size] = 0;
}

static inline uint32_t cmf_i_chance(void) {
    unsigned char bytes[4];
    int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, bytes, sizeof bytes);
    struct timespec now;
    if (file >= 0) close(file);
    clock_gettime(CLOCK_REALTIME, &now);
    if (size != (ssize_t)sizeof bytes) return (uint32_t)now.tv_nsec * 2654435761u;
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Return when this process started, in clock ticks since boot: what no other process of the same number has. */
static inline long long cmf_i_start(void) {
    char text[4096], *at;
    int field;
    cmf_i_small("/proc/self/stat", text, sizeof text);
    at = strrchr(text, ')'); /* the command's name before it may hold anything */
    for (field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    return at ? strtoll(at, NULL, 10) : 0;
}

static inline void cmf_i_process(cmf_text *text, const char *host, long pid, long long start) {
    char boot[64], space[256];
    ssize_t size = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    space[size > 0 ? size : 0] = 0;
    cmf_i_small("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    cmf_i_member(text, "{\"boot\":", boot);
    cmf_i_member(text, ",\"host\":", host);
    cmf_i_say(text, ",\"pid\":");
    cmf_i_integer(text, pid);
    if (*space) cmf_i_member(text, ",\"space\":", space);
    cmf_i_say(text, ",\"start\":");
    cmf_i_integer(text, start);
    cmf_i_say(text, ",\"uid\":");
    cmf_i_integer(text, (long long)getuid());
    cmf_i_say(text, ",\"v\":1}");
}

/* Make of a host's name what stands in a file's name: runs of other characters become one '-', none at the ends. */
static inline void cmf_i_slug(const char *host, char name[65]) {
    static const char kept[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t size = 0;
    int was_kept = 1;
    while (strchr("-._", *host) && *host) host++;
    for (; *host && size < 64; host++) {
        int is_kept = strchr(kept, *host) != NULL;
        if (is_kept || (was_kept && size)) name[size++] = is_kept ? *host : '-';
        was_kept = is_kept;
    }
    while (size && strchr("-._", name[size - 1])) size--;
    name[size > 40 ? 40 : size] = 0;
}

static inline long long cmf_i_clock(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return 0;
    return (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Return the time in us, always later than the time before. */
static inline long long cmf_i_now(cmf_run *run) {
    long long now = cmf_i_clock();
    run->last = now > run->last ? now : run->last + 1;
    return run->last;
}

/* ---- the journal ------------------------------------------------------------------------------------------------ */

static inline int cmf_i_all(int file, const unsigned char *bytes, size_t size) {
    while (size) {
        ssize_t done = write(file, bytes, size);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return -1;
        bytes += done;
        size -= (size_t)done;
    }
    return 0;
}

static inline void cmf_i_begin(cmf_text *frame, int tag) {
    memset(frame, 0, sizeof *frame);
    cmf_i_add_little(frame, 0, 8);
    cmf_i_add_little(frame, (uint64_t)tag, 1);
}

/* Fill in a frame's length and checksum. */
static inline void cmf_i_seal(const cmf_run *run, cmf_text *frame) {
    uint32_t crc = 0xFFFFFFFFu;
    size_t i;
    if (frame->bad) return;
    for (i = 8; i < frame->size; i++) crc = run->crc[(crc ^ frame->at[i]) & 0xFF] ^ crc >> 8;
    cmf_i_little(frame->at, frame->size - 8, 4);
    cmf_i_little(frame->at + 4, ~crc & 0xFFFFFFFFu, 4);
}

/* Begin a journal under a new name. */
static inline int cmf_i_journal(cmf_run *run) {
    struct utsname machine;
    char host[65];
    cmf_text path, data;
    long long start = cmf_i_start();
    char tail[96];
    int failed;
    if (uname(&machine)) return -1;
    memset(&path, 0, sizeof path);
    cmf_i_slug(machine.nodename, host);
    cmf_i_say(&path, run->folder);
    cmf_i_add(&path, "/journal", 9);
    if (!path.bad) mkdir((char *)path.at, 0777);
    if (path.size) path.size--;
    snprintf(tail, sizeof tail, "-%ld-%lld-%08x.j", run->pid, start, (unsigned)cmf_i_chance());
    cmf_i_say(&path, "/");
    cmf_i_say(&path, host);
    cmf_i_add(&path, tail, strlen(tail) + 1);
    cmf_i_begin(&data, 1);
    if (cmf_i_characters(machine.nodename) < 0) data.bad = 1;
    cmf_i_process(&data, machine.nodename, run->pid, start);
    cmf_i_seal(run, &data);
    run->file = path.bad || data.bad
                    ? -1
                    : open((char *)path.at, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    failed = run->file < 0 || cmf_i_all(run->file, (const unsigned char *)"cmf-jrn\x01", 8) ||
             cmf_i_all(run->file, data.at, data.size);
    if (failed && run->file >= 0) {
        close(run->file);
        run->file = -1;
        unlink((char *)path.at); /* or each try on a full disk would leave one more file */
    }
    run->broken = failed;
    run->end = 8 + (long long)data.size;
    free(path.at);
    free(data.at);
    return failed ? -1 : 0;
}

static inline int cmf_i_ready(const cmf_run *run) { return run && run->live && run->pid == (long)getpid(); }

/* Append a frame whole, or not at all, and free it. */
static inline int cmf_i_send(cmf_run *run, cmf_text *frame) {
    int failed = frame->bad || frame->size - 8 > (1u << 20) || (run->broken && cmf_i_journal(run));
    if (!failed) {
        cmf_i_seal(run, frame);
        failed = cmf_i_all(run->file, frame->at, frame->size);
        if (!failed)
            run->end += (long long)frame->size;
        else if (ftruncate(run->file, (off_t)run->end)) { /* nothing behind a torn frame would be read */
            close(run->file);
            run->file = -1;
            run->broken = 1;
        }
    }
    free(frame->at);
    frame->at = NULL;
    return failed ? -1 : 0;
}

/* Say how much could not be written, as soon as the disk takes that. */
static inline void cmf_i_say_dropped(cmf_run *run) {
    cmf_text frame;
    if (!run->dropped) return;
    cmf_i_begin(&frame, 5);
    cmf_i_say(&frame, "{\"count\":");
    cmf_i_integer(&frame, run->dropped);
    cmf_i_say(&frame, ",\"first\":\"something that a C program recorded\"}");
    if (!cmf_i_send(run, &frame)) run->dropped = 0;
}

/* Append what was begun; count it if the disk refuses. */
static inline int cmf_i_record(cmf_run *run, cmf_text *frame) {
    if (cmf_i_send(run, frame)) {
        run->dropped++;
        return -1;
    }
    cmf_i_say_dropped(run);
    return 0;
}

/* Begin a record frame of the run's scope. */
static inline void cmf_i_draft(cmf_run *run, cmf_text *frame) {
    cmf_i_begin(frame, 2);
    cmf_i_add_little(frame, strlen(run->scope), 2);
    cmf_i_say(frame, run->scope);
}

static inline char *cmf_i_copy(const char *text, size_t size) {
    char *copy = (char *)malloc(size + 1);
    if (copy) {
        memcpy(copy, text, size);
        copy[size] = 0;
    }
    return copy;
}

static inline int cmf_i_made_of(const char *text, const char *letters, size_t least, size_t most) {
    size_t size = text ? strlen(text) : 0;
    return size >= least && size <= most && strspn(text, letters) == size;
}

static inline void cmf_i_forget_set(cmf_set *set) {
    size_t i;
    for (i = 0; set->names && i < set->n; i++) free(set->names[i]);
    free(set->names);
    free(set->order);
    free(set->json);
    free(set->steps);
    free(set->times);
    free(set->values);
    free(set);
}

static inline void cmf_i_forget(cmf_run *run) {
    while (run->sets) {
        cmf_set *next = run->sets->next;
        cmf_i_forget_set(run->sets);
        run->sets = next;
    }
    free(run->scope);
    free(run->id);
    free(run->attempt);
    free(run->folder);
    free(run->root);
    memset(run, 0, sizeof *run);
    run->file = -1;
}

static inline int cmf_open(cmf_run *run) {
    /* Ranks of handles that one process opens one after the other differ, and so, nearly always, do those of processes
     * that have the same number one after the other, or on two hosts. */
    static uint32_t handles = 0;
    const char *told = getenv("CMF_RUN");
    const char *at[3];
    uint32_t i, bit;
    if (!run) return -1;
    memset(run, 0, sizeof *run);
    run->file = -1;
    for (i = 0; told && i < 3; i++) {
        at[i] = strchr(i ? at[i - 1] + 1 : told, ':');
        if (!at[i]) return -1;
    }
    if (!told || at[2][1] != '/') return -1;
    run->scope = cmf_i_copy(told, (size_t)(at[0] - told));
    run->id = cmf_i_copy(at[0] + 1, (size_t)(at[1] - at[0] - 1));
    run->attempt = cmf_i_copy(at[1] + 1, (size_t)(at[2] - at[1] - 1));
    run->folder = cmf_i_copy(at[2] + 1, strlen(at[2] + 1));
    run->pid = (long)getpid();
    if (!handles) handles = cmf_i_chance() | 1u;
    run->rank = run->pid % 4194304 + 4194304L * (long)(handles++ % 238);
    for (i = 0; i < 256; i++)
        for (run->crc[i] = i, bit = 0; bit < 8; bit++)
            run->crc[i] = run->crc[i] & 1 ? 0xEDB88320u ^ run->crc[i] >> 1 : run->crc[i] >> 1;
    run->flushed = cmf_i_clock();
    run->root = run->folder ? cmf_i_copy(run->folder, strlen(run->folder)) : NULL;
    if (run->root && strrchr(run->root, '/')) {
        char *real, *slash = strrchr(run->root, '/');
        slash[slash == run->root] = 0;
        real = realpath(run->root, NULL);
        free(run->root);
        run->root = real;
    }
    run->live = run->root &&
                cmf_i_made_of(run->scope, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/", 3, 400) &&
                cmf_i_made_of(run->id, "0123456789abcdef-", 36, 36) &&
                cmf_i_made_of(run->attempt, "0123456789abcdef-", 10, 18) && !access(run->folder, W_OK) &&
                !cmf_i_journal(run);
    if (run->live) return 0;
    cmf_i_forget(run);
    return -1;
}

/* ---- step metrics ----------------------------------------------------------------------------------------------- */

static inline int cmf_i_is_set(const cmf_set *set, size_t n, const char *const *names) {
    size_t i;
    if (set->n != n) return 0;
    for (i = 0; i < n; i++)
        if (strcmp(set->names[i], names[i])) return 0;
    return 1;
}

/* Fill in a new set's names and their order; -1 if they are none. */
static inline int cmf_i_names(cmf_set *set, size_t n, const char *const *names) {
    cmf_text json;
    size_t i, j;
    long characters = 0;
    memset(&json, 0, sizeof json);
    set->n = n;
    set->names = (char **)calloc(n, sizeof *set->names);
    set->order = (size_t *)calloc(n, sizeof *set->order);
    if (!set->names || !set->order) return -1;
    for (i = 0; i < n; i++) {
        if (!cmf_i_is_text(names[i], 512)) return -1;
        characters += cmf_i_characters(names[i]);
        set->names[i] = cmf_i_copy(names[i], strlen(names[i]));
        if (!set->names[i]) return -1;
        for (j = i; j > 0 && strcmp(names[set->order[j - 1]], names[i]) > 0; j--) set->order[j] = set->order[j - 1];
        if (j > 0 && !strcmp(names[set->order[j - 1]], names[i])) return -1;
        set->order[j] = i;
    }
    if (characters > 6000) return -1;
    for (i = 0; i < n; i++) cmf_i_member(&json, i ? "," : "[", names[set->order[i]]);
    cmf_i_add(&json, "]", 2);
    set->json = (char *)json.at;
    return json.bad ? -1 : 0;
}

/* Make room for the rows of a set. */
static inline int cmf_i_room(cmf_set *set) {
    set->keeper = set;
    set->room = 524288 / (8 * (2 + set->n));
    if (set->room > CMF_ROWS_MAX) set->room = CMF_ROWS_MAX;
    set->steps = (int64_t *)malloc(set->room * sizeof *set->steps);
    set->times = (int64_t *)malloc(set->room * sizeof *set->times);
    set->values = (double *)malloc(set->room * set->n * sizeof *set->values);
    return set->steps && set->times && set->values ? 0 : -1;
}

/* Return the set of these names, in this order; NULL if they are none, or memory is short. */
static inline cmf_set *cmf_i_set(cmf_run *run, size_t n, const char *const *names) {
    cmf_set *set, *other;
    int failed;
    for (set = run->sets; set; set = set->next)
        if (cmf_i_is_set(set, n, names)) return set;
    set = (cmf_set *)calloc(1, sizeof *set);
    if (!set) return NULL;
    failed = cmf_i_names(set, n, names);
    for (other = run->sets; !failed && other; other = other->next)
        if (!strcmp(other->json, set->json)) set->keeper = other->keeper;
    if (failed || (!set->keeper && cmf_i_room(set))) {
        cmf_i_forget_set(set);
        return NULL;
    }
    set->next = run->sets;
    run->sets = set;
    return set;
}

static inline int cmf_i_points(cmf_run *run, cmf_set *set) {
    cmf_text frame, header;
    size_t i, row;
    if (!set->rows) return 0;
    memset(&header, 0, sizeof header);
    cmf_i_member(&header, "{\"attempt\":", run->attempt);
    cmf_i_member(&header, ",\"execution\":", run->id);
    cmf_i_say(&header, ",\"first\":");
    cmf_i_integer(&header, set->first);
    cmf_i_say(&header, ",\"names\":");
    cmf_i_say(&header, set->json);
    cmf_i_say(&header, ",\"rank\":");
    cmf_i_integer(&header, run->rank);
    cmf_i_say(&header, ",\"rows\":");
    cmf_i_integer(&header, (long long)set->rows);
    cmf_i_member(&header, ",\"scope\":", run->scope);
    cmf_i_say(&header, "}");
    cmf_i_begin(&frame, 3);
    cmf_i_add_little(&frame, header.size, 2);
    cmf_i_add(&frame, header.at, header.size);
    if (header.bad || header.size > 0xFFFF) frame.bad = 1;
    free(header.at);
    for (row = 0; row < set->rows; row++) cmf_i_add_little(&frame, (uint64_t)set->steps[row], 8);
    for (row = 0; row < set->rows; row++) cmf_i_add_little(&frame, (uint64_t)set->times[row], 8);
    for (i = 0; i < set->n; i++)
        for (row = 0; row < set->rows; row++) {
            uint64_t bits;
            memcpy(&bits, &set->values[row * set->n + i], 8);
            cmf_i_add_little(&frame, bits, 8);
        }
    if (cmf_i_send(run, &frame)) return -1; /* the rows wait on */
    set->first += (long long)set->rows;
    set->rows = 0;
    return 0;
}

static inline int cmf_flush(cmf_run *run) {
    cmf_set *set;
    int failed = 0;
    if (!cmf_i_ready(run)) return -1;
    run->flushed = cmf_i_clock();
    for (set = run->sets; set; set = set->next)
        if (cmf_i_points(run, set)) failed = -1;
    return failed;
}

static inline int cmf_log(cmf_run *run, long long step, size_t n, const char *const *names, const double *values) {
    cmf_set *set, *rows;
    long long now;
    size_t i;
    if (!cmf_i_ready(run) || !n || n > CMF_NAMES_MAX || step > CMF_INTEGER_MAX || step < -CMF_INTEGER_MAX) return -1;
    set = run->recent && cmf_i_is_set(run->recent, n, names) ? run->recent : cmf_i_set(run, n, names);
    if (!set) return -1;
    run->recent = set;
    rows = set->keeper;
    if (rows->rows == rows->room && cmf_i_points(run, rows)) {
        run->dropped++;
        return -1;
    }
    now = cmf_i_clock();
    rows->steps[rows->rows] = step;
    rows->times[rows->rows] = now;
    for (i = 0; i < n; i++) rows->values[rows->rows * n + i] = values[set->order[i]];
    rows->rows++;
    if (rows->rows == rows->room) cmf_i_points(run, rows);
    if (now - run->flushed >= 1000000 || now < run->flushed) cmf_flush(run);
    return 0;
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static inline int cmf_i_property(cmf_run *run, const char *kind, const char *name, const char *text, double number) {
    cmf_text frame;
    if (!cmf_i_ready(run) || !cmf_i_is_text(name, 512 - (long)strlen(kind)) || !*name) return -1;
    if (text && cmf_i_characters(text) < 0) return -1;
    cmf_i_draft(run, &frame);
    cmf_i_say(&frame, "{\"key\":\"");
    cmf_i_say(&frame, kind);
    cmf_i_escaped(&frame, name);
    cmf_i_say(&frame, "\",\"kind\":\"property\",\"subject\":\"execution:");
    cmf_i_say(&frame, run->scope);
    cmf_i_say(&frame, ":");
    cmf_i_say(&frame, run->id);
    cmf_i_say(&frame, "\",\"t\":");
    cmf_i_integer(&frame, cmf_i_now(run));
    cmf_i_say(&frame, ",\"value\":");
    if (text)
        cmf_i_string(&frame, text);
    else
        cmf_i_number(&frame, number);
    cmf_i_say(&frame, "}");
    if (frame.size > 65000) { /* a record has at most 64 KiB with its salt */
        free(frame.at);
        return -1;
    }
    return cmf_i_record(run, &frame);
}

static inline int cmf_metric(cmf_run *run, const char *name, double value) {
    return cmf_i_property(run, "metric/", name, NULL, value);
}

static inline int cmf_param_number(cmf_run *run, const char *name, double value) {
    return cmf_i_property(run, "param/", name, NULL, value);
}

static inline int cmf_param_text(cmf_run *run, const char *name, const char *value) {
    return value ? cmf_i_property(run, "param/", name, value, 0) : -1;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* Return what follows a folder in a path below it, or NULL. */
static inline const char *cmf_i_below(const char *path, const char *folder) {
    size_t size = folder ? strlen(folder) : 0;
    if (size == 1) size = 0; /* the root of all */
    if (!folder || *folder != '/' || strncmp(path, folder, size) || path[size] != '/') return NULL;
    return path + size + 1;
}

/* Return the absolute path of a file, its folder's links followed and the file's own not; NULL if it can't be said. */
static inline char *cmf_i_absolute(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder = slash ? cmf_i_copy(path, (size_t)(slash - path) + 1) : cmf_i_copy(".", 1);
    char *real = folder ? realpath(folder, NULL) : NULL;
    cmf_text text;
    memset(&text, 0, sizeof text);
    free(folder);
    if (!real) return NULL;
    if (strcmp(real, "/")) cmf_i_say(&text, real);
    cmf_i_say(&text, "/");
    cmf_i_add(&text, name, strlen(name) + 1);
    free(real);
    if (text.bad) free(text.at);
    return text.bad ? NULL : (char *)text.at;
}

/* Add a path as records hold it: relative to the folder that holds .cmf, else to the home folder, else absolute. */
static inline void cmf_i_path(cmf_text *text, const cmf_run *run, const char *absolute) {
    const char *home = getenv("HOME"), *found = cmf_i_below(absolute, run->root);
    if (found) {
        if (found[0] == '~' && (!found[1] || found[1] == '/')) cmf_i_say(text, "./");
    } else if (home && (found = cmf_i_below(absolute, home)) != NULL)
        cmf_i_say(text, "~/");
    cmf_i_escaped(text, found ? found : absolute);
}

/* Copy a file to an open one; give its digest and its size. */
static inline int cmf_i_take(int from, int to, char hex[65], long long *size) {
    unsigned char *bytes = (unsigned char *)malloc(1 << 16);
    cmf_sha sha;
    ssize_t part;
    int failed = bytes == NULL;
    cmf_i_sha_begin(&sha);
    while (!failed && (part = read(from, bytes, 1 << 16)) != 0) {
        if (part < 0 && errno == EINTR) continue;
        failed = part < 0 || cmf_i_all(to, bytes, (size_t)part);
        if (!failed) cmf_i_sha_add(&sha, bytes, (size_t)part);
    }
    *size = (long long)sha.size;
    cmf_i_sha_end(&sha, hex);
    free(bytes);
    return failed ? -1 : 0;
}

/* Make the names in a folder survive power loss, where the file system can. */
static inline void cmf_i_sync_folder(const char *path) {
    int folder = open(path, O_RDONLY | O_CLOEXEC);
    if (folder < 0) return;
    fsync(folder);
    close(folder);
}

/* Keep a file's bytes as an object, under a temporary name until it is whole; give its digest and its size. */
static inline int cmf_i_keep(const cmf_run *run, const char *path, char hex[65], long long *size) {
    struct stat found;
    size_t room = strlen(run->folder) + 128;
    char *temporary = (char *)malloc(room), *target = (char *)malloc(room);
    int from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), to = -1, failed;
    failed = !temporary || !target || from < 0 || fstat(from, &found) || !S_ISREG(found.st_mode);
    if (!failed) {
        snprintf(target, room, "%s/objects", run->folder);
        mkdir(target, 0777);
        snprintf(target, room, "%s/objects/tmp", run->folder);
        mkdir(target, 0777);
        snprintf(temporary, room, "%s/objects/tmp/%ld-%08x", run->folder, run->pid, (unsigned)cmf_i_chance());
        to = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
        failed = to < 0 || cmf_i_take(from, to, hex, size) || fsync(to);
        if (to >= 0 && close(to)) failed = 1;
        if (!failed) {
            snprintf(target, room, "%s/objects/%.2s", run->folder, hex);
            mkdir(target, 0777);
            snprintf(target, room, "%s/objects/%.2s/%s", run->folder, hex, hex + 2);
            failed = rename(temporary, target);
            if (!failed) {
                snprintf(target, room, "%s/objects/%.2s", run->folder, hex);
                cmf_i_sync_folder(target);
                snprintf(target, room, "%s/objects", run->folder);
                cmf_i_sync_folder(target);
            }
        }
        if (failed && to >= 0) unlink(temporary);
    }
    if (from >= 0) close(from);
    free(temporary);
    free(target);
    return failed ? -1 : 0;
}

/* Tell the `cmf run` above, if there is one, what was recorded here: it does not record that again. */
static inline void cmf_i_tell(const char *direction, const char *path) {
    const char *place = getenv("CMF_TOLD");
    char *real = place && *place ? realpath(path, NULL) : NULL;
    cmf_text text;
    int file;
    memset(&text, 0, sizeof text);
    if (!real) return;
    cmf_i_add(&text, direction, strlen(direction) + 1);
    cmf_i_add(&text, real, strlen(real) + 1);
    file = open(place, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (file >= 0) {
        if (!text.bad) cmf_i_all(file, text.at, text.size);
        close(file);
    }
    free(text.at);
    free(real);
}

static inline int cmf_event(cmf_run *run, const char *direction, const char *path, const char *type, const char *name) {
    cmf_text frame;
    char hex[65], *absolute;
    long long size;
    if (!cmf_i_ready(run) || !direction || (strcmp(direction, "input") && strcmp(direction, "output"))) return -1;
    if (!cmf_i_is_text(path, 4096) || (type && !cmf_i_is_text(type, 512)) || (name && !cmf_i_is_text(name, 512)))
        return -1;
    absolute = cmf_i_absolute(path);
    if (!absolute || !cmf_i_is_text(absolute, 4096) || cmf_i_keep(run, path, hex, &size)) {
        free(absolute);
        return -1;
    }
    cmf_i_draft(run, &frame);
    cmf_i_say(&frame, "{\"digest\":\"sha256:");
    cmf_i_say(&frame, hex);
    cmf_i_say(&frame, "\",\"kind\":\"artifact\"}");
    if (cmf_i_record(run, &frame)) {
        free(absolute);
        return -1;
    }
    cmf_i_draft(run, &frame);
    cmf_i_say(&frame, "{\"artifact\":\"sha256:");
    cmf_i_say(&frame, hex);
    cmf_i_member(&frame, "\",\"direction\":", direction);
    cmf_i_member(&frame, ",\"execution\":", run->id);
    cmf_i_say(&frame, ",\"kind\":\"event\"");
    if (name && *name) cmf_i_member(&frame, ",\"name\":", name);
    cmf_i_say(&frame, ",\"path\":\"");
    cmf_i_path(&frame, run, absolute);
    cmf_i_say(&frame, "\",\"size\":");
    cmf_i_integer(&frame, size);
    cmf_i_say(&frame, ",\"t\":");
    cmf_i_integer(&frame, cmf_i_now(run));
    if (type && *type) cmf_i_member(&frame, ",\"type\":", type);
    cmf_i_say(&frame, "}");
    free(absolute);
    if (cmf_i_record(run, &frame)) return -1;
    cmf_i_tell(direction, path);
    return 0;
}

static inline int cmf_close(cmf_run *run) {
    cmf_text frame;
    cmf_set *set;
    int failed;
    if (!cmf_i_ready(run)) {
        if (run && run->live) { /* a forked child: the rows are its parent's */
            if (run->file >= 0) close(run->file);
            cmf_i_forget(run);
        }
        return -1;
    }
    failed = cmf_flush(run);
    for (set = run->sets; set; set = set->next) run->dropped += (long long)set->rows;
    cmf_i_say_dropped(run);
    cmf_i_begin(&frame, 6);
    if (cmf_i_send(run, &frame)) failed = -1;
#ifdef __APPLE__
    if (run->file < 0 || fsync(run->file)) failed = -1;
#else
    if (run->file < 0 || fdatasync(run->file)) failed = -1;
#endif
    if (run->file >= 0 && close(run->file)) failed = -1;
    cmf_i_forget(run);
    return failed;
}

#endif
