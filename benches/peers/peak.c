/*
 * The core's measured peak of f32 fused multiply-adds, in GFLOP/s, one thread, as one JSON object:
 * {"avx512": .., "avx2": ..}; an instruction set that the processor lacks is absent.
 *
 * Sixteen accumulators hide a latency of four cycles at two (AVX2: at up to four) operations a cycle and leave
 * registers for the two factors, except that AVX2 has sixteen in all: twelve there. Each is a variable of its own,
 * so no unrolling by the compiler is needed for them to stay in registers. The figure is the median over slices of
 * about a millisecond, which sheds the slices another process takes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define STEPS 20000
#define DECLARE(n) a##n = start,
#define TIMES12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define TIMES16(X) TIMES12(X) X(12) X(13) X(14) X(15)
/* The empty statement keeps the chain of one accumulator from being simplified. */
#define FMA512(n) a##n = _mm512_fmadd_ps(a##n, x, y); __asm__ volatile("" : "+v"(a##n));
#define FMA256(n) a##n = _mm256_fmadd_ps(a##n, x, y); __asm__ volatile("" : "+x"(a##n));
#define ADD512(n) sum = _mm512_add_ps(sum, a##n);
#define ADD256(n) sum = _mm256_add_ps(sum, a##n);

static volatile float sink;

/* Operations of one slice: STEPS iterations x accumulators x lanes x 2. */
__attribute__((target("avx512f"))) static double slice_avx512(void)
{
    const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-6f), start = _mm512_set1_ps(1.0f);
    __m512 TIMES16(DECLARE) sum = start;
    for (int i = 0; i < STEPS; i++) {
        TIMES16(FMA512)
    }
    TIMES16(ADD512)
    sink = _mm512_cvtss_f32(sum);
    return (double)STEPS * 16 * 16 * 2;
}

__attribute__((target("avx2,fma"))) static double slice_avx2(void)
{
    const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-6f), start = _mm256_set1_ps(1.0f);
    __m256 TIMES12(DECLARE) sum = start;
    for (int i = 0; i < STEPS; i++) {
        TIMES12(FMA256)
    }
    TIMES12(ADD256)
    sink = _mm256_cvtss_f32(sum);
    return (double)STEPS * 12 * 8 * 2;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double gflops(double (*slice)(void), double seconds)
{
    enum { MOST = 20000 };
    static double samples[MOST];
    int count = 0;
    const double warm = now() + 0.2 * seconds, end = now() + seconds;
    while (now() < warm) {
        slice();
    }
    do {
        const double start = now(), work = slice();
        samples[count++] = work / (now() - start) / 1e9;
    } while (count < MOST && now() < end);
    qsort(samples, (size_t)count, sizeof samples[0], compare);
    return samples[count / 2];
}

int main(int argc, char **argv)
{
    const double seconds = argc > 1 ? atof(argv[1]) : 0.25;
    const char *comma = "";
    printf("{");
    if (__builtin_cpu_supports("avx512f")) {
        printf("\"avx512\": %.1f", gflops(slice_avx512, seconds));
        comma = ", ";
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        printf("%s\"avx2\": %.1f", comma, gflops(slice_avx2, seconds));
    }
    printf("}\n");
    return 0;
}
#else
int main(void)
{
    fprintf(stderr, "peak: only x86-64 is measured\n");
    return 1;
}
#endif
