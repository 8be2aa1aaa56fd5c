/* Stands in for libcuda.so.1: device memory is the host's. It refuses what the driver refuses: calls before cuInit,
 * calls without a current context in the thread, copies beyond an allocation, streams that are none.
 *
 * Environment: STAND_IN_CUINIT ("crash", or the code that cuInit gives), STAND_IN_GPUS (how many), STAND_IN_GPU (the
 * name), STAND_IN_CUDA (the driver's CUDA version), STAND_IN_MEMORY (bytes that it has).
 * Exported for tests and for the stand-in of TensorRT: stand_in_room, stand_in_is_stream, stand_in_has_context,
 * stand_in_left.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, MOST = 4096 };

typedef unsigned long long address_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char *start; size_t size; } blocks[MOST];
static void *streams[MOST];
static int initialized, retained;
static size_t used;
static int primary; /* its address is the context */
static __thread void *current;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

static int alive(void) { return current == &primary && retained > 0; }

/* Bytes from here to the end of the allocation that it lies in. */
size_t stand_in_room(address_t address) {
    size_t room = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; i++) {
        char *start = blocks[i].start, *wanted = (char *)address;
        if (start && wanted >= start && wanted < start + blocks[i].size) room = blocks[i].size - (wanted - start);
    }
    pthread_mutex_unlock(&lock);
    return room;
}

int stand_in_is_stream(void *stream) {
    int found = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; i++) found |= stream && streams[i] == stream;
    pthread_mutex_unlock(&lock);
    return found;
}

int stand_in_has_context(void) { return alive(); }

/* What has not been given back: allocations, streams and holds on the primary context. */
int stand_in_left(void) {
    int left = retained;
    for (int i = 0; i < MOST; i++) left += (blocks[i].start != NULL) + (streams[i] != NULL);
    return left;
}

int cuInit(unsigned flags) {
    const char *how = getenv("STAND_IN_CUINIT");
    if (how && !strcmp(how, "crash")) raise(SIGSEGV);
    if (flags) return INVALID_VALUE;
    int code = (int)number("STAND_IN_CUINIT", OK);
    initialized = code == OK;
    return code;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == NO_DEVICE         ? "no CUDA-capable device is detected"
            : code == OUT_OF_MEMORY   ? "out of memory"
            : code == INVALID_CONTEXT ? "invalid device context"
            : code == INVALID_VALUE   ? "invalid argument"
                                      : NULL;
    return *text ? OK : INVALID_VALUE;
}

int cuDriverGetVersion(int *version) {
    *version = (int)number("STAND_IN_CUDA", 13000);
    return OK;
}

int cuDeviceGetCount(int *count) {
    *count = (int)number("STAND_IN_GPUS", 1);
    return initialized ? OK : NOT_INITIALIZED;
}

int cuDeviceGet(int *device, int ordinal) {
    if (!initialized) return NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= number("STAND_IN_GPUS", 1)) return INVALID_DEVICE;
    *device = ordinal;
    return OK;
}

int cuDeviceGetName(char *name, int size, int device) {
    const char *given = getenv("STAND_IN_GPU");
    if (device) return INVALID_DEVICE;
    snprintf(name, (size_t)size, "%s", given ? given : "Stand-in GPU");
    return OK;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device) return INVALID_DEVICE;
    if (attribute != 75 && attribute != 76) return INVALID_VALUE;
    *value = attribute == 75 ? 8 : 7;
    return OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (!initialized) return NOT_INITIALIZED;
    if (device) return INVALID_DEVICE;
    pthread_mutex_lock(&lock);
    retained++;
    pthread_mutex_unlock(&lock);
    *context = &primary;
    return OK;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    if (device || retained < 1) return INVALID_CONTEXT;
    pthread_mutex_lock(&lock);
    retained--;
    pthread_mutex_unlock(&lock);
    return OK;
}

int cuCtxSetCurrent(void *context) {
    if (context && context != &primary) return INVALID_CONTEXT;
    current = context;
    return OK;
}

int cuStreamCreate(void **stream, unsigned flags) {
    if (!alive()) return INVALID_CONTEXT;
    if (flags > 1) return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; i++)
        if (!streams[i]) {
            *stream = streams[i] = malloc(1);
            break;
        }
    pthread_mutex_unlock(&lock);
    return OK;
}

int cuStreamSynchronize(void *stream) {
    return !alive() ? INVALID_CONTEXT : stand_in_is_stream(stream) ? OK : INVALID_HANDLE;
}

int cuStreamDestroy_v2(void *stream) {
    int code = cuStreamSynchronize(stream);
    if (code != OK) return code;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; i++)
        if (streams[i] == stream) streams[i] = NULL;
    pthread_mutex_unlock(&lock);
    free(stream);
    return OK;
}

int cuMemAlloc_v2(address_t *address, size_t size) {
    if (!alive()) return INVALID_CONTEXT;
    if (!size) return INVALID_VALUE;
    int code = OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST && used + size <= (size_t)number("STAND_IN_MEMORY", 1L << 30); i++)
        if (!blocks[i].start) {
            blocks[i].start = malloc(size);
            blocks[i].size = size;
            used += size;
            *address = (address_t)blocks[i].start;
            code = OK;
            break;
        }
    pthread_mutex_unlock(&lock);
    return code;
}

int cuMemFree_v2(address_t address) {
    if (!alive()) return INVALID_CONTEXT;
    int code = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; i++)
        if (blocks[i].start && (address_t)blocks[i].start == address) {
            free(blocks[i].start);
            used -= blocks[i].size;
            blocks[i].start = NULL;
            code = OK;
        }
    pthread_mutex_unlock(&lock);
    return code;
}

int cuMemcpyHtoDAsync_v2(address_t target, const void *source, size_t size, void *stream) {
    int code = cuStreamSynchronize(stream);
    if (code == OK && stand_in_room(target) < size) code = INVALID_VALUE;
    if (code == OK) memcpy((void *)target, source, size);
    return code;
}

int cuMemcpyDtoHAsync_v2(void *target, address_t source, size_t size, void *stream) {
    int code = cuStreamSynchronize(stream);
    if (code == OK && stand_in_room(source) < size) code = INVALID_VALUE;
    if (code == OK) memcpy(target, (void *)source, size);
    return code;
}
