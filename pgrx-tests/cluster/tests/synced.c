/* Loaded into a server under test (LD_PRELOAD): before each fdatasync of the ring its file is copied
 * (first when it is made), before each msync the part of it. What was there then is what the disk is sure to hold when the call
 * has returned; if the operating system were lost afterwards nothing else could be relied upon.
 * RING_COPY names the copy. While the file $RING_COPY.fail exists the calls fail with EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int is_path(const char *path, const char *end)
{
	size_t len = strlen(path), tail = strlen(end);
	return len >= tail && strcmp(path + len - tail, end) == 0;
}

static int is_ring(int fd)
{
	char link[64], path[4096];
	ssize_t len;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof path - 1);
	if (len < 0)
		return 0;
	path[len] = 0;
	return is_path(path, "/ring") || is_path(path, "/ring.new");
}

/* Copies bytes of a file to the same place in another. */
static void copy_bytes(int from, int to, off_t at, off_t end)
{
	static char buffer[1 << 20];
	while (at < end) {
		size_t most = end - at < (off_t) sizeof buffer ? (size_t) (end - at) : sizeof buffer;
		ssize_t len = pread(from, buffer, most, at);
		if (len <= 0)
			return;
		if (pwrite(to, buffer, len, at) != len)
			abort();
		at += len;
	}
}

/* The copy is as it was, but for what lies from `at` to `end`; another process sees it whole. */
static void keep(int fd, const char *to, off_t at, off_t end)
{
	static const off_t everything = 1L << 40;
	char temporary[4096];
	int copy, before;
	snprintf(temporary, sizeof temporary, "%s.%d", to, (int) getpid());
	copy = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (copy < 0)
		abort();
	before = end == everything ? -1 : open(to, O_RDONLY);
	if (before >= 0) {
		copy_bytes(before, copy, 0, everything);
		close(before);
	}
	copy_bytes(fd, copy, at, end);
	close(copy);
	if (rename(temporary, to) != 0)
		abort();
}

static int fails(const char *to)
{
	char fail[4096];
	snprintf(fail, sizeof fail, "%s.fail", to);
	if (access(fail, F_OK) != 0)
		return 0;
	errno = EIO;
	return 1;
}

int msync(void *address, size_t len, int flags)
{
	static int (*next)(void *, size_t, int);
	const char *to = getenv("RING_COPY");
	if (!next)
		next = (int (*)(void *, size_t, int)) dlsym(RTLD_NEXT, "msync");
	if (to) {
		char line[4400], path[4096];
		FILE *maps = fopen("/proc/self/maps", "r");
		while (maps && fgets(line, sizeof line, maps)) {
			unsigned long begin, end, offset;
			if (sscanf(line, "%lx-%lx %*s %lx %*s %*s %4095s", &begin, &end, &offset, path) == 4
			    && (unsigned long) address >= begin && (unsigned long) address < end
			    && is_path(path, "/ring")) {
				off_t at = (unsigned long) address - begin + offset;
				int fd;
				if (fails(to)) {
					fclose(maps);
					return -1;
				}
				fd = open(path, O_RDONLY);
				if (fd < 0)
					abort();
				keep(fd, to, at, at + len);
				close(fd);
			}
		}
		if (maps)
			fclose(maps);
	}
	return next(address, len, flags);
}

int fdatasync(int fd)
{
	static int (*next)(int);
	const char *to = getenv("RING_COPY");
	if (!next)
		next = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
	if (to && is_ring(fd)) {
		if (fails(to))
			return -1;
		keep(fd, to, 0, 1L << 40);
	}
	return next(fd);
}
