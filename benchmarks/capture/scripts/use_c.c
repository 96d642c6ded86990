/* Copy what is read, line by line, in upper case. */
#include <ctype.h>
#include <stdio.h>

int main(void)
{
    FILE *in = fopen("sheep.csv", "r"), *out = fopen("loud.csv", "w");
    if (in == NULL || out == NULL)
        return 1;
    for (int c; (c = getc(in)) != EOF;)
        putc(toupper(c), out);
    return fclose(in) | fclose(out);
}
