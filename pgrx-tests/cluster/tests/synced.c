/* Loaded into a server under test (LD_PRELOAD): before each fdatasync of the ring its file is copied.
 * What was there then is what the disk is sure to hold when the call has returned; if the operating
 * system were lost afterwards nothing else could be relied upon. RING_COPY names the copy. While the
 * file $RING_COPY.fail exists the call fails with EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_ring(int fd)
{
	char link[64], path[4096];
	ssize_t len;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof path - 1);
	if (len < 5)
		return 0;
	path[len] = 0;
	return strcmp(path + len - 5, "/ring") == 0;
}

static void keep(int fd, const char *to)
{
	static char buffer[1 << 20];
	char temporary[4096];
	off_t at = 0;
	ssize_t len;
	int copy;
	snprintf(temporary, sizeof temporary, "%s.%d", to, (int) getpid());
	copy = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (copy < 0)
		abort();
	while ((len = pread(fd, buffer, sizeof buffer, at)) > 0) {
		if (pwrite(copy, buffer, len, at) != len)
			abort();
		at += len;
	}
	close(copy);
	if (rename(temporary, to) != 0)
		abort();
}

int fdatasync(int fd)
{
	static int (*next)(int);
	const char *to = getenv("RING_COPY");
	if (!next)
		next = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
	if (to && is_ring(fd)) {
		char fail[4096];
		snprintf(fail, sizeof fail, "%s.fail", to);
		if (access(fail, F_OK) == 0) {
			errno = EIO;
			return -1;
		}
		keep(fd, to);
	}
	return next(fd);
}
