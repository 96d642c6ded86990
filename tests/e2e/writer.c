/* What tests/e2e/test_c_writer.py runs: each way of use under a word of its own. */
#include "cmf.h"

#include <sys/wait.h>

static int story(cmf_run *run) {
    const char *names[] = {"loss", "accuracy"}, *turned[] = {"accuracy", "loss"};
    double values[2];
    int i, bad = 0;
    bad |= cmf_param_number(run, "lr", 0.1);
    bad |= cmf_param_number(run, "layers", 3);
    bad |= cmf_param_text(run, "optimizer", "adam");
    bad |= cmf_event(run, "input", "data.csv", "dataset", NULL);
    for (i = 0; i < 10; i++) {
        values[0] = 1.0 / (i + 1);
        values[1] = i;
        bad |= cmf_log(run, i, 2, names, values);
    }
    values[0] = 10;
    values[1] = 0.0 / 1.0;
    bad |= cmf_log(run, 10, 2, turned, values); /* the same names in another order are the same rows */
    bad |= cmf_metric(run, "f1", 0.5);
    bad |= cmf_event(run, "output", "model.bin", "model", "detector");
    return bad;
}

static int odd(cmf_run *run) {
    char text[600];
    int bad = 0, i;
    for (i = 1; i < 128; i++) text[i - 1] = (char)i;
    text[127] = 0;
    bad |= cmf_param_text(run, "ascii", text);
    bad |= cmf_param_text(run, "say\"so\\\n\xc3\xa9", "\xe2\x82\xac \xf0\x9f\x98\x80 \xef\xbf\xbf");
    bad |= cmf_metric(run, "nan", strtod("nan", NULL));
    bad |= cmf_metric(run, "inf", strtod("inf", NULL));
    bad |= cmf_metric(run, "ninf", -strtod("inf", NULL));
    bad |= cmf_metric(run, "large", 9007199254740994.0);
    bad |= cmf_metric(run, "huge", 1e300);
    bad |= cmf_metric(run, "tiny", 5e-324);
    bad |= cmf_metric(run, "third", 1.0 / 3);
    memset(text, 'a', 600);
    text[505] = 0;
    bad |= cmf_metric(run, text, 1); /* with "metric/" the longest key there is */
    return bad;
}

static int refused(cmf_run *run) {
    const char *twice[] = {"a", "a"}, *broken[] = {"\xff"}, *fine[] = {"a"};
    double values[] = {1, 2};
    char text[600];
    int good = 0;
    good += !cmf_param_text(run, "a", "\xff");
    good += !cmf_param_text(run, "a", "\xc0\x80");         /* spelled longer than it need be */
    good += !cmf_param_text(run, "a", "\xed\xa0\x80");     /* half of a pair */
    good += !cmf_param_text(run, "a", "\xf4\x90\x80\x80"); /* beyond the last character */
    good += !cmf_param_text(run, "a", "\xe2\x82");         /* cut short */
    good += !cmf_param_text(run, "", "a");
    good += !cmf_metric(run, "\x80", 1);
    good += !cmf_event(run, "input", "missing", NULL, NULL);
    good += !cmf_event(run, "input", ".", NULL, NULL);
    good += !cmf_event(run, "sideways", "data.csv", NULL, NULL);
    good += !cmf_log(run, 1, 2, twice, values);
    good += !cmf_log(run, 1, 1, broken, values);
    good += !cmf_log(run, 1, 0, fine, values);
    good += !cmf_log(run, 9007199254740993LL, 1, fine, values);
    memset(text, 'a', 600);
    text[506] = 0;
    good += !cmf_metric(run, text, 1);
    return good;
}

int main(int count, char **words) {
    const char *word = count > 1 ? words[1] : "", *names[] = {"loss"};
    long i, rows = count > 2 ? atol(words[2]) : 0;
    int bad = 0, opened;
    cmf_run run;
    opened = cmf_open(&run);
    if (!strcmp(word, "outside")) {
        double one = 1;
        return opened == -1 && cmf_log(&run, 0, 1, names, &one) == -1 && cmf_metric(&run, "a", 1) == -1 &&
                       cmf_event(&run, "input", "data.csv", NULL, NULL) == -1 && cmf_flush(&run) == -1 &&
                       cmf_close(&run) == -1
                   ? 0
                   : 1;
    }
    if (opened) return 2;
    if (!strcmp(word, "rows")) printf("%ld\n", run.rank);
    if (!strcmp(word, "story")) bad |= story(&run);
    if (!strcmp(word, "odd")) bad |= odd(&run);
    if (!strcmp(word, "refused")) bad |= refused(&run);
    for (i = 0; i < rows; i++) {
        double value = (double)i / 2;
        bad |= cmf_log(&run, i, 1, names, &value);
    }
    if (!strcmp(word, "killed")) {
        bad |= cmf_flush(&run);
        printf("flushed\n");
        fflush(stdout);
        for (;;) { /* until it is killed, at whatever it writes */
            double value = -1;
            cmf_log(&run, i++, 1, names, &value);
        }
    }
    if (!strcmp(word, "forked")) { /* rows that wait are the parent's; the child opens a handle of its own */
        double value = 7;
        pid_t child;
        bad |= cmf_log(&run, 0, 1, names, &value);
        child = fork();
        if (child == 0) {
            bad = cmf_metric(&run, "stolen", 1) != -1 || cmf_flush(&run) != -1 || cmf_close(&run) != -1;
            bad |= cmf_open(&run) || cmf_metric(&run, "child", 1) || cmf_close(&run);
            _exit(bad ? 1 : 0);
        }
        bad |= waitpid(child, &opened, 0) != child || opened;
    }
    if (!strcmp(word, "torn")) { /* a disk that fills up in the middle of a frame */
        bad |= cmf_flush(&run) != -1;
        return bad | cmf_metric(&run, "kept", 1); /* what still fits */
    }
    return bad | cmf_close(&run) ? 1 : 0;
}
