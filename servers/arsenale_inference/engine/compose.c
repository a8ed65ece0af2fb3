// LoRA layers per token inside a stock llama.cpp graph, by the scheduler's evaluation callback.
//
// ggml's scheduler asks `callback(t, ask = true)` of each node in graph order, computes up to the first node that
// answered true, and calls `callback(t, ask = false)` with that node's data in place. Two ways to use it:
//   add   after a matrix product with a named weight W: y_t += sum over layers l of w[t][l] * B_l (A_l x_t).
//         Host memory only; no adapter is in the graph, so layers come and go at no cost.
//   mask  the context holds ONE fused adapter (the A rows of all layers stacked); rows of A x are multiplied by
//         w[t][layer of the row]. Any backend.
// Recording finds the weights ("sites"), which of them see output rows only, and which may wait: of two products with
// the same x, where nothing reads the first before the second is there, one stop of the graph serves both.
//
// cc -O3 -march=native -ffast-math -fopenmp -shared -fPIC -I<llama_cpp's include folder> compose.c
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ggml.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 4")

// ---------------------------------------------------------------- vectors
#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define HALVES 1
#elif defined(__AVX__) && defined(__F16C__)
#include <immintrin.h>
#define LANES 8
#define HALVES 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#define LANES 4
#define HALVES 1
#else
#define LANES 4
#define HALVES 0
#endif
#define TILE 4
#define BLOCK (TILE * LANES)  // columns of B that stand together in memory

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef float loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE vec load(const float * p) { return *(const loose *) p; }

INLINE vec load_half(const uint16_t * p) {
#if defined(__AVX512F__)
    return (vec) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p));
#elif HALVES && LANES == 8
    return (vec) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
#elif HALVES
    return (vec) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    (void) p;
    return (vec) {0};
#endif
}

typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

INLINE vec load_byte(const int8_t * p) {
#if defined(__AVX512F__)
    return (vec) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p)));
#elif defined(__AVX2__) && LANES == 8
    return (vec) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p)));
#else
    return __builtin_convertvector(*(const bytes *) p, vec);
#endif
}

// SIZE is that of an element: 4 float, 2 half, 1 signed byte.
INLINE vec load_at(const void * p, int64_t i, int size) {
    if (size == 1) return load_byte((const int8_t *) p + i);
    return size == 2 ? load_half((const uint16_t *) p + i) : load((const float *) p + i);
}

INLINE float sum(vec v) {
    float s = 0;
    for (int i = 0; i < LANES; i++) s += v[i];
    return s;
}

// The last columns of a row that is no multiple of LANES, zeros behind them.
INLINE vec load_rest(const void * p, int64_t i, int64_t n, int size) {
    float room[LANES] = {0};
    memcpy(room, (const char *) p + i * size, (size_t) (n * size));
    return load_at(room, 0, size);
}

// out[k][r] = scale[r] * weight[k] * (row r of a) . x[k], for `rows` rows of n and `tokens` vectors x
INLINE void dots(const void * a, int size, int64_t n, const float * const * x, const float * weight,
                 const float * scale, int rows, int tokens, float * out, int stride) {
    vec acc[TILE][TILE] = {0};
    int64_t q = 0;
    for (; q + LANES <= n; q += LANES) {
        vec row[TILE];
        UNROLL for (int r = 0; r < rows; r++) row[r] = load_at(a, r * n + q, size);
        UNROLL for (int k = 0; k < tokens; k++) {
            const vec v = load(x[k] + q);
            UNROLL for (int r = 0; r < rows; r++) acc[r][k] += row[r] * v;
        }
    }
    if (q < n) {
        for (int k = 0; k < tokens; k++) {
            const vec v = load_rest(x[k], q, n - q, 4);
            for (int r = 0; r < rows; r++) acc[r][k] += load_rest((const char *) a + r * n * size, q, n - q, size) * v;
        }
    }
    for (int k = 0; k < tokens; k++)
        for (int r = 0; r < rows; r++) out[k * stride + r] = scale[r] * weight[k] * sum(acc[r][k]);
}

// Row . x: one row at a time is one stream, which memory serves fastest.
INLINE float dot(const void * a, int size, int64_t n, const float * x) {
    vec acc[TILE] = {0};
    int64_t q = 0;
    for (; q + BLOCK <= n; q += BLOCK) {
        UNROLL for (int k = 0; k < TILE; k++) acc[k] += load_at(a, q + k * LANES, size) * load(x + q + k * LANES);
    }
    for (; q + LANES <= n; q += LANES) acc[0] += load_at(a, q, size) * load(x + q);
    if (q < n) acc[1] += load_rest((const char *) a + q * size, 0, n - q, size) * load_rest(x, q, n - q, 4);
    return sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

// y[k][0..BLOCK) += sum over r of u[k][r] * (row r of the block b)
INLINE void spread(const void * b, int size, int rank, const float * u, float * const * y, int tokens) {
    vec acc[TILE][TILE];
    UNROLL for (int k = 0; k < tokens; k++)
        UNROLL for (int c = 0; c < TILE; c++) acc[k][c] = load(y[k] + c * LANES);
    for (int r = 0; r < rank; r++) {
        vec row[TILE];
        UNROLL for (int c = 0; c < TILE; c++) row[c] = load_at(b, (int64_t) r * BLOCK + c * LANES, size);
        UNROLL for (int k = 0; k < tokens; k++)
            UNROLL for (int c = 0; c < TILE; c++) acc[k][c] += row[c] * u[k * rank + r];
    }
    UNROLL for (int k = 0; k < tokens; k++)
        UNROLL for (int c = 0; c < TILE; c++) *(loose *) (y[k] + c * LANES) = acc[k][c];
}

// ---------------------------------------------------------------- state
enum { IDLE, RECORD, ADD, MASK };
enum { FAULT_NONE, FAULT_ROWS, FAULT_ORDER, FAULT_MEMORY };

typedef struct {
    int32_t rank, size;   // rank 0: the layer leaves this weight alone; bytes of an element of a and b
    const float * scale;  // [rank]
    const void * a;       // [rank][n_in]
    const void * b;       // [n_out / BLOCK, rounded up][rank][BLOCK]
} pair;

typedef struct {
    char name[GGML_MAX_NAME];
    int64_t n_in, n_out;
    bool gathered;  // sees the rows with outputs only
    bool waits;     // the next site may serve it
    bool touched;   // by a layer of this step
    int32_t n_mask;
    int32_t * mask;  // [n_mask] slot of each row of the fused A
} site;

typedef struct {
    int32_t n;       // tokens that use the layer
    int32_t * token;  // [n]
    float * weight;  // [n]
} users;

#define KNOWN 8192  // addresses remembered; power of two
#define WAITING 8

typedef bool (*host_fn)(const void * buffer);
typedef void (*get_fn)(const struct ggml_tensor *, void *, size_t, size_t);
typedef void (*set_fn)(struct ggml_tensor *, const void *, size_t, size_t);

typedef struct compose {
    int32_t mode, way, fault, n_sites, cap_sites, n_slots, n_known;
    int64_t n_tokens, n_outputs, asked, stops;
    bool merge;  // one stop for several sites
    site * sites;
    pair ** layers;     // [n_slots] -> [n_sites], NULL where the slot is free
    users * all, * out;  // [n_slots], over tokens and over output rows
    int32_t * used, n_used;
    float * weights, * weights_out;  // [rows][n_slots], for the mask
    const void * key[KNOWN];
    int32_t value[KNOWN];
    struct ggml_tensor * waiting[WAITING];
    int32_t waiting_site[WAITING], n_waiting;
    const struct ggml_tensor * open[WAITING];  // while recording: products not read yet
    int32_t open_site, n_open;
    struct job * jobs;  // [(WAITING + 1) * n_slots]
    int32_t n_jobs, threads;
    float * scratch;
    size_t n_scratch, n_u;
    host_fn is_host;
    get_fn get;
    set_fn set;
} compose;

int32_t compose_block(void) { return BLOCK; }
int32_t compose_halves(void) { return HALVES; }

compose * compose_new(void * is_host, void * get, void * set) {
    compose * h = calloc(1, sizeof *h);
    if (!h) return NULL;
    h->is_host = (host_fn) is_host;
    h->get = (get_fn) get;
    h->set = (set_fn) set;
    h->merge = true, h->threads = 1;
    return h;
}

static void drop_users(users * list, int32_t n) {
    for (int32_t i = 0; list && i < n; i++) free(list[i].token), free(list[i].weight);
    free(list);
}

void compose_free(compose * h) {
    if (!h) return;
    for (int32_t i = 0; i < h->n_sites; i++) free(h->sites[i].mask);
    for (int32_t i = 0; i < h->n_slots; i++) free(h->layers[i]);
    drop_users(h->all, h->n_slots);
    drop_users(h->out, h->n_slots);
    free(h->sites), free(h->layers), free(h->used), free(h->weights), free(h->weights_out), free(h->scratch);
    free(h->jobs), free(h);
}

static void forget(compose * h) {
    memset(h->key, 0, sizeof h->key);
    h->n_known = 0;
}

static int32_t by_name(const compose * h, const char * name, size_t length) {
    for (int32_t i = 0; i < h->n_sites; i++)
        if (strlen(h->sites[i].name) == length && !memcmp(h->sites[i].name, name, length)) return i;
    return -1;
}

static bool ends(const char * name, const char * tail) {
    const size_t n = strlen(name), m = strlen(tail);
    return n > m && !strcmp(name + n - m, tail);
}

static int32_t look_up(const compose * h, const struct ggml_tensor * w) {
    size_t n = strlen(w->name);
    if (h->mode == MASK) return ends(w->name, ".lora_a") ? by_name(h, w->name, n - 7) : -1;
    return by_name(h, w->name, n);
}

// Weights stay where they are while the model lives; what does not fit the table is looked up each time.
static int32_t find(compose * h, const struct ggml_tensor * w) {
    uint32_t k = (uint32_t) (((uintptr_t) w >> 4) * 2654435761u) % KNOWN;
    while (h->key[k] && h->key[k] != w) k = (k + 1) % KNOWN;
    if (h->key[k] == w) return h->value[k];
    const int32_t found = look_up(h, w);
    if (h->n_known < KNOWN / 2) h->key[k] = w, h->value[k] = found, h->n_known++;
    return found;
}

// ---------------------------------------------------------------- recording
static bool is_product(const struct ggml_tensor * t) {
    if (t->op != GGML_OP_MUL_MAT || t->src[0]->op != GGML_OP_NONE) return false;
    return t->type == GGML_TYPE_F32 && t->src[1]->type == GGML_TYPE_F32 && t->ne[2] == 1 && t->ne[3] == 1;
}

static const struct ggml_tensor * root(const struct ggml_tensor * t) { return t->view_src ? t->view_src : t; }

static bool only_views(const struct ggml_tensor * t) {
    return t->op == GGML_OP_NONE || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_VIEW || t->op == GGML_OP_PERMUTE ||
           t->op == GGML_OP_TRANSPOSE;
}

static bool reads(const struct ggml_tensor * t, const struct ggml_tensor * other) {
    for (int i = 0; i < GGML_MAX_SRC; i++)
        if (t->src[i] && root(t->src[i]) == root(other)) return true;
    return false;
}

static bool reads_any(const struct ggml_tensor * t, const struct ggml_tensor * const * some, int32_t n) {
    if (only_views(t)) return false;
    for (int32_t i = 0; i < n; i++)
        if (reads(t, some[i])) return true;
    return false;
}

static int32_t add_site(compose * h, const struct ggml_tensor * t) {
    const struct ggml_tensor * w = t->src[0];
    if (!ends(w->name, ".weight") || by_name(h, w->name, strlen(w->name)) >= 0) return -1;
    if (t->ne[1] != h->n_tokens && t->ne[1] != h->n_outputs) return -1;
    if (h->n_sites == h->cap_sites) {
        const int32_t cap = h->cap_sites ? 2 * h->cap_sites : 64;
        site * more = realloc(h->sites, (size_t) cap * sizeof *more);
        if (!more) { h->fault = FAULT_MEMORY; return -1; }
        h->sites = more, h->cap_sites = cap;
    }
    site * s = &h->sites[h->n_sites];
    memset(s, 0, sizeof *s);
    memcpy(s->name, w->name, sizeof s->name);
    s->n_in = t->src[1]->ne[0], s->n_out = t->ne[0], s->gathered = t->ne[1] != h->n_tokens;
    return h->n_sites++;
}

static void record(compose * h, const struct ggml_tensor * t) {
    if (reads_any(t, h->open, h->n_open)) h->n_open = 0;
    if (!is_product(t)) return;
    const int32_t i = add_site(h, t);
    if (i < 0) { h->n_open = 0; return; }
    if (h->n_open && h->n_open < WAITING - 1 && h->open[0]->src[1] == t->src[1]) h->sites[h->open_site].waits = true;
    else h->n_open = 0;
    h->open[h->n_open++] = t, h->open_site = i;
}

// ---------------------------------------------------------------- adding
static float * row_of(const struct ggml_tensor * t, int64_t i) { return (float *) ((char *) t->data + t->nb[1] * i); }

static float * scratch(compose * h, size_t n) {
    if (h->n_scratch < n) {
        free(h->scratch);
        h->scratch = malloc(n * sizeof(float));
        h->n_scratch = h->scratch ? n : 0;
        if (!h->scratch) h->fault = FAULT_MEMORY;
    }
    return h->scratch;
}

// One layer on one product; jobs of a product stand together.
typedef struct job {
    pair p;
    const site * s;
    const struct ggml_tensor * t;
    const users * g;
    size_t u;  // where its u[k][rank] begins in the scratch
} job;

// u[k][r] = scale[r] * weight[k] * A[r] . x[k] for r in [from, to)
INLINE void shrink(const job * j, float * u, int from, int to, int size) {
    const int64_t n = j->s->n_in;
    const int rank = j->p.rank;
    const float * weight = j->g->weight, * scale = j->p.scale;
    const char * a = j->p.a;
    int k = 0;
    for (; k + TILE <= j->g->n; k += TILE, u += TILE * rank) {
        const float * x[TILE];
        for (int i = 0; i < TILE; i++) x[i] = row_of(j->t->src[1], j->g->token[k + i]);
        int r = from;
        for (; r + TILE <= to; r += TILE)
            dots(a + r * n * size, size, n, x, weight + k, scale + r, TILE, TILE, u + r, rank);
        for (; r < to; r++) dots(a + r * n * size, size, n, x, weight + k, scale + r, 1, TILE, u + r, rank);
    }
    for (; k < j->g->n; k++, u += rank) {
        const float * x = row_of(j->t->src[1], j->g->token[k]);
        for (int r = from; r < to; r++) u[r] = scale[r] * weight[k] * dot(a + r * n * size, size, n, x);
    }
}

// y[k] += B u[k] in the blocks [from, to); the columns past the last whole block go through a copy
INLINE void grow(const job * j, const float * u, int64_t from, int64_t to, int size) {
    const int rank = j->p.rank;
    const int64_t n = j->s->n_out;
    for (int64_t c = from * BLOCK; c < n && c < to * BLOCK; c += BLOCK) {
        const char * b = (const char *) j->p.b + c * rank * size;
        const size_t rest = (size_t) (n - c < BLOCK ? n - c : BLOCK) * sizeof(float);
        for (int k = 0; k < j->g->n;) {
            float * y[TILE], copy[BLOCK];
            const int tokens = j->g->n - k >= TILE && rest == sizeof copy ? TILE : 1;
            for (int i = 0; i < tokens; i++) y[i] = row_of(j->t, j->g->token[k + i]) + c;
            float * const place = y[0];
            if (rest < sizeof copy) memset(copy, 0, sizeof copy), memcpy(copy, place, rest), y[0] = copy;
            if (tokens == TILE) spread(b, size, rank, u + (size_t) k * rank, y, TILE);
            else spread(b, size, rank, u + (size_t) k * rank, y, 1);
            if (rest < sizeof copy) memcpy(place, copy, rest);
            k += tokens;
        }
    }
}

// The sizes are constants, so that each becomes a loop of its own.
static void shrink_part(const job * j, float * u, int part, int parts) {
    const int from = j->p.rank * part / parts, to = j->p.rank * (part + 1) / parts;
    if (j->p.size == 1) shrink(j, u + j->u, from, to, 1);
    else if (j->p.size == 2) shrink(j, u + j->u, from, to, 2);
    else shrink(j, u + j->u, from, to, 4);
}

static void grow_part(const job * j, const float * u, int part, int parts) {
    const int64_t blocks = (j->s->n_out + BLOCK - 1) / BLOCK;
    const int64_t from = blocks * part / parts, to = blocks * (part + 1) / parts;
    if (j->p.size == 1) grow(j, u + j->u, from, to, 1);
    else if (j->p.size == 2) grow(j, u + j->u, from, to, 2);
    else grow(j, u + j->u, from, to, 4);
}

// Threads share the rows of A, then the columns of B: no two write to one place, and each sum has one order.
static void run(compose * h) {
    const int parts = h->threads;
    float * u = scratch(h, h->n_u);
    if (!u) return;
    if (parts == 1) {
        for (int w = 0; w < h->n_jobs; w++) shrink_part(&h->jobs[w], u, 0, 1), grow_part(&h->jobs[w], u, 0, 1);
        return;
    }
#pragma omp parallel num_threads(parts)
    {
#pragma omp for schedule(static)
        for (int w = 0; w < h->n_jobs * parts; w++) shrink_part(&h->jobs[w / parts], u, w % parts, parts);
#pragma omp for schedule(static)
        for (int part = 0; part < parts; part++)
            for (int w = 0; w < h->n_jobs; w++) grow_part(&h->jobs[w], u, part, parts);
    }
}

static bool as_recorded(const compose * h, const site * s, const struct ggml_tensor * t) {
    const struct ggml_tensor * x = t->src[1];
    if (!root(t)->buffer || !h->is_host(root(t)->buffer) || !root(x)->buffer || !h->is_host(root(x)->buffer)) return false;
    return is_product(t) && t->ne[0] == s->n_out && x->ne[0] == s->n_in && t->nb[0] == 4 && x->nb[0] == 4 &&
           t->ne[1] == (s->gathered ? h->n_outputs : h->n_tokens);
}

// Take up what the layers of this step do to a product.
static void collect(compose * h, int32_t i, const struct ggml_tensor * t) {
    const site * s = &h->sites[i];
    if (!s->touched) return;
    if (!as_recorded(h, s, t)) { h->fault = FAULT_ROWS; return; }
    for (int32_t k = 0; k < h->n_used; k++) {
        const int32_t slot = h->used[k];
        const users * g = s->gathered ? &h->out[slot] : &h->all[slot];
        const pair p = h->layers[slot][i];
        if (!p.rank || !g->n) continue;
        h->jobs[h->n_jobs++] = (job) {p, s, t, g, h->n_u};
        h->n_u += (size_t) g->n * (size_t) p.rank;
    }
}

static bool ask_add(compose * h, struct ggml_tensor * t) {
    if (reads_any(t, (const struct ggml_tensor * const *) h->waiting, h->n_waiting)) h->fault = FAULT_ORDER;
    if (!is_product(t)) return false;
    const int32_t i = find(h, t->src[0]);
    if (i < 0) return false;
    const bool touched = h->sites[i].touched;
    if (!h->merge || !h->sites[i].waits || h->n_waiting == WAITING) return touched || h->n_waiting;
    if (touched) h->waiting[h->n_waiting] = t, h->waiting_site[h->n_waiting++] = i;
    return false;
}

static void stop_add(compose * h, struct ggml_tensor * t) {
    h->n_jobs = 0, h->n_u = 0;
    for (int32_t k = 0; k < h->n_waiting; k++) {
        if (h->waiting[k]->src[1] != t->src[1]) h->fault = FAULT_ORDER;
        else collect(h, h->waiting_site[k], h->waiting[k]);
    }
    h->n_waiting = 0;
    collect(h, find(h, t->src[0]), t);
    run(h);
}

// ---------------------------------------------------------------- masking
static void multiply(const compose * h, const site * s, float * data, size_t row_bytes) {
    const int64_t n = s->gathered ? h->n_outputs : h->n_tokens;
    const float * w = s->gathered ? h->weights_out : h->weights;
    for (int64_t k = 0; k < n; k++, w += h->n_slots) {
        float * to = (float *) ((char *) data + row_bytes * (size_t) k);
        for (int32_t r = 0; r < s->n_mask; r++) to[r] *= w[s->mask[r]];
    }
}

static void mask(compose * h, const site * s, struct ggml_tensor * t) {
    const int64_t n = s->gathered ? h->n_outputs : h->n_tokens;
    if (t->ne[0] != s->n_mask || t->ne[1] != n || t->nb[0] != 4) { h->fault = FAULT_ROWS; return; }
    if (!t->buffer || h->is_host(t->buffer)) { multiply(h, s, t->data, t->nb[1]); return; }
    float * copy = scratch(h, (size_t) (n * s->n_mask));
    if (!copy) return;
    h->get(t, copy, 0, (size_t) (n * s->n_mask) * 4);
    multiply(h, s, copy, (size_t) s->n_mask * 4);
    h->set(t, copy, 0, (size_t) (n * s->n_mask) * 4);
}

static bool ask_mask(compose * h, const struct ggml_tensor * t) {
    return t->op == GGML_OP_MUL_MAT && t->src[0]->op == GGML_OP_NONE && find(h, t->src[0]) >= 0;
}

// ---------------------------------------------------------------- the callback
bool compose_callback(struct ggml_tensor * t, bool ask, void * data) {
    compose * h = data;
    if (h->mode == IDLE) return !ask;
    if (ask) {
        h->asked++;
        if (h->mode == ADD) return ask_add(h, t);
        if (h->mode == MASK) return ask_mask(h, t);
        record(h, t);
        return false;
    }
    h->stops++;
    if (h->mode == ADD) stop_add(h, t);
    else if (h->mode == MASK) mask(h, &h->sites[find(h, t->src[0])], t);
    return true;
}

bool compose_abort(void * flag) { return *(volatile int32_t *) flag != 0; }

// ---------------------------------------------------------------- layers and steps
int32_t compose_site(const compose * h, int32_t i, char * name, int64_t * n_in, int64_t * n_out, int32_t * gathered,
                     int32_t * waits) {
    if (i < 0 || i >= h->n_sites) return 0;
    memcpy(name, h->sites[i].name, GGML_MAX_NAME);
    *n_in = h->sites[i].n_in, *n_out = h->sites[i].n_out;
    *gathered = h->sites[i].gathered, *waits = h->sites[i].waits;
    return 1;
}

static int32_t more_slots(compose * h, int32_t n) {
    if (n <= h->n_slots) return 1;
    pair ** layers = realloc(h->layers, (size_t) n * sizeof *layers);
    if (layers) h->layers = layers;
    int32_t * used = realloc(h->used, (size_t) n * sizeof *used);
    if (used) h->used = used;
    users * all = realloc(h->all, (size_t) n * sizeof *all);
    if (all) h->all = all;
    users * out = realloc(h->out, (size_t) n * sizeof *out);
    if (out) h->out = out;
    job * jobs = realloc(h->jobs, (size_t) (WAITING + 1) * (size_t) n * sizeof *jobs);
    if (jobs) h->jobs = jobs;
    if (!layers || !used || !all || !out || !jobs) return 0;
    for (; h->n_slots < n; h->n_slots++) {
        layers[h->n_slots] = NULL;
        all[h->n_slots] = out[h->n_slots] = (users) {0};
    }
    return 1;
}

// Put a layer into a slot; the arrays, [n_sites] each, are copied, what they point to is not.
int32_t compose_set(compose * h, int32_t slot, const int32_t * rank, const int32_t * size, const float * const * scale,
                    const void * const * a, const void * const * b) {
    if (!more_slots(h, slot + 1)) return 0;
    pair * table = calloc((size_t) h->n_sites, sizeof *table);
    if (!table) return 0;
    for (int32_t i = 0; i < h->n_sites; i++) table[i] = (pair) {rank[i], size[i], scale[i], a[i], b[i]};
    free(h->layers[slot]);
    h->layers[slot] = table;
    return 1;
}

void compose_drop(compose * h, int32_t slot) {
    if (slot >= h->n_slots) return;
    free(h->layers[slot]);
    h->layers[slot] = NULL;
}

// Say which slot each row of the fused adapter's A at a site belongs to.
int32_t compose_rows(compose * h, int32_t i, int32_t n, const int32_t * slots) {
    int32_t * rows = malloc((size_t) (n ? n : 1) * sizeof *rows);
    if (!rows) return 0;
    memcpy(rows, slots, (size_t) n * sizeof *rows);
    forget(h);  // the fused adapter's tensors are new
    free(h->sites[i].mask);
    h->sites[i].mask = rows, h->sites[i].n_mask = n;
    return 1;
}

static bool list_users(users * g, const float * w, int64_t n, int32_t n_slots, int32_t slot) {
    int32_t * token = realloc(g->token, (size_t) (n ? n : 1) * sizeof *token);
    if (token) g->token = token;
    float * weight = realloc(g->weight, (size_t) (n ? n : 1) * sizeof *weight);
    if (weight) g->weight = weight;
    g->n = 0;
    if (!token || !weight) return false;
    for (int64_t k = 0; k < n; k++) {
        const float value = w[k * n_slots + slot];
        if (value != 0.0f) token[g->n] = (int32_t) k, weight[g->n++] = value;
    }
    return true;
}

static int32_t begin_add(compose * h) {
    h->n_used = 0;
    for (int32_t i = 0; i < h->n_sites; i++) h->sites[i].touched = false;
    for (int32_t slot = 0; slot < h->n_slots; slot++) {
        if (!h->layers[slot]) continue;
        if (!list_users(&h->all[slot], h->weights, h->n_tokens, h->n_slots, slot)) return 0;
        if (!list_users(&h->out[slot], h->weights_out, h->n_outputs, h->n_slots, slot)) return 0;
        if (!h->all[slot].n) continue;
        h->used[h->n_used++] = slot;
        for (int32_t i = 0; i < h->n_sites; i++) {
            const bool here = h->sites[i].gathered ? h->out[slot].n > 0 : true;
            if (h->layers[slot][i].rank && here) h->sites[i].touched = true;
        }
    }
    h->mode = h->n_used ? ADD : IDLE;
    return 1;
}

static float * copy_rows(float * old, const float * w, int64_t n, int32_t n_slots, const int32_t * rows) {
    const size_t row = (size_t) n_slots * sizeof *w;
    float * to = realloc(old, (size_t) (n ? n : 1) * (row ? row : 1));
    for (int64_t k = 0; to && k < n; k++) memcpy(to + k * n_slots, w + (rows ? rows[k] : k) * n_slots, row);
    return to;
}

// Make the next decode one of n_tokens rows with weights [n_tokens][n_slots], where n_slots is that of the layers
// set so far (or larger, for the mask); outputs [n_outputs] are the rows with logits, ascending.
int32_t compose_begin(compose * h, int32_t way, int64_t n_tokens, int32_t n_slots, const float * weights,
                      int64_t n_outputs, const int32_t * outputs) {
    h->mode = IDLE, h->fault = FAULT_NONE, h->n_waiting = 0, h->n_open = 0;
    h->n_tokens = n_tokens, h->n_outputs = n_outputs;
    if (way != h->way) forget(h);  // an address means another thing now
    h->way = way;
    if (way == RECORD) h->mode = RECORD;
    if (way != ADD && way != MASK) return 1;
    if (!more_slots(h, n_slots) || n_slots != h->n_slots) return 0;
    float * all = copy_rows(h->weights, weights, n_tokens, n_slots, NULL);
    if (all) h->weights = all;
    float * out = copy_rows(h->weights_out, weights, n_outputs, n_slots, outputs);
    if (out) h->weights_out = out;
    if (!all || !out) return 0;
    if (way == ADD) return begin_add(h);
    h->mode = MASK;
    return 1;
}

// End the step; say what went wrong in it (FAULT_*).
int32_t compose_end(compose * h) {
    if (h->mode == ADD && h->n_waiting && !h->fault) h->fault = FAULT_ORDER;
    h->mode = IDLE, h->n_waiting = 0;
    return h->fault;
}

void compose_merge(compose * h, int32_t on) { h->merge = on; }
void compose_threads(compose * h, int32_t n) { h->threads = n > 1 ? n : 1; }
void compose_counts(const compose * h, int64_t * asked, int64_t * stops) { *asked = h->asked, *stops = h->stops; }
