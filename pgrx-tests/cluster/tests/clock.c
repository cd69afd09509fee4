/* Loaded into a server under test (LD_PRELOAD): its clock is ahead of the system's by as many seconds
 * as the first eight bytes of the file CLOCK_AHEAD say at that moment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t ahead(void)
{
	static volatile int64_t *seconds;
	const char *path = getenv("CLOCK_AHEAD");
	if (!seconds && path) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		void *at = fd < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
		if (at == MAP_FAILED)
			abort();
		close(fd);
		seconds = at;
	}
	return seconds ? *seconds : 0;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
	static int (*next)(clockid_t, struct timespec *);
	int done;
	if (!next)
		next = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	done = next(id, now);
	if (id == CLOCK_REALTIME)
		now->tv_sec += ahead();
	return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;
	(void) zone;
	clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

/* pg_ctl compares the postmaster's start with this. */
time_t time(time_t *to)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (to)
		*to = now.tv_sec;
	return now.tv_sec;
}
