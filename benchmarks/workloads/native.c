/* What one call of cmf.h costs, in microseconds: the first word of the command line says how often to call. */
#include "cmf.h"

static double since(double started) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3 - started;
}

int main(int count, char **words) {
    const char *names[] = {"loss", "accuracy", "rate"};
    double values[] = {1, 0, 0.1}, started;
    long calls = count > 1 ? atol(words[1]) : 0, i, metrics = calls / 10;
    int bad = 0;
    cmf_run run;
    if (cmf_open(&run)) return 1;
    started = since(0);
    for (i = 0; i < calls; i++) {
        values[0] = 1.0 / (double)(1 + i);
        values[1] = 1 - values[0];
        bad |= cmf_log(&run, i, 3, names, values);
    }
    bad |= cmf_flush(&run);
    printf("%.4f\n", since(started) / (double)calls);
    started = since(0);
    for (i = 0; i < metrics; i++) bad |= cmf_metric(&run, "score", 1.0 / (double)(1 + i));
    printf("%.4f\n", since(started) / (double)metrics);
    return bad | cmf_close(&run) ? 1 : 0;
}
