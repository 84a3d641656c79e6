/* A disk that fails: preloaded into the service, it makes calls on the files of the
 * database and of a backup fail with the number that a file in $BROKEN_DISK holds, once that file is
 * there: `sync` for fsync and fdatasync, `read` for reads. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* Whether a call on this file is to fail; then errno says how. */
static int fails(int fd, const char *calls) {
    char path[4096], link[64];
    const char *directory = getenv("BROKEN_DISK");
    if (!directory) return 0;
    snprintf(path, sizeof path, "%s/%s", directory, calls);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int number = 0, found = fscanf(file, "%d", &number);
    fclose(file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (found != 1 || length < 0) return 0;
    path[length] = 0;
    if (!ends_with(path, ".db") && !ends_with(path, ".db-wal") && !ends_with(path, ".partial"))
        return 0;
    errno = number;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd) {
    int before = errno;
    if (fails(fd, "sync")) return -1;
    errno = before;
    return NEXT(fsync)(fd);
}

int fdatasync(int fd) {
    int before = errno;
    if (fails(fd, "sync")) return -1;
    errno = before;
    return NEXT(fdatasync)(fd);
}

/* stdio, which is used above, reads without calling these. */
ssize_t read(int fd, void *buffer, size_t bytes) {
    int before = errno;
    if (fails(fd, "read")) return -1;
    errno = before;
    return NEXT(read)(fd, buffer, bytes);
}

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset) {
    int before = errno;
    if (fails(fd, "read")) return -1;
    errno = before;
    return NEXT(pread)(fd, buffer, bytes, offset);
}

ssize_t pread64(int fd, void *buffer, size_t bytes, off64_t offset) {
    int before = errno;
    if (fails(fd, "read")) return -1;
    errno = before;
    return NEXT(pread64)(fd, buffer, bytes, offset);
}
