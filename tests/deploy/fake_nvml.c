// NVML of a healthy DGX-2, and of one with faults: FAKE_NVML="ecc@3=0;count=4" has GPU 3 without ECC, and four GPUs.
// Made for doctor_test.py; what is not here is a function that the driver does not have.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kSuccess = 0, kNotSupported = 3, kMaxGpus = 64, kNoGpu = -1 };

static int devices[kMaxGpus];

static int Index(void* device) { return (int)((int*)device - devices); }

// The value of NAME@GPU, else of NAME, else `otherwise`.
static long long Setting(const char* name, int gpu, long long otherwise) {
  const char* settings = getenv("FAKE_NVML");
  char wanted[64];
  for (int with_gpu = 1; with_gpu >= 0 && settings != NULL; --with_gpu) {
    if (with_gpu) {
      snprintf(wanted, sizeof(wanted), ";%s@%d=", name, gpu);
    } else {
      snprintf(wanted, sizeof(wanted), ";%s=", name);
    }
    const char* found = strstr(settings, wanted);
    if (found != NULL) return atoll(found + strlen(wanted));
  }
  return otherwise;
}

static int Answer(unsigned* value, const char* name, void* device, long long otherwise) {
  const long long answer = Setting(name, Index(device), otherwise);
  if (answer < 0) return kNotSupported;
  *value = (unsigned)answer;
  return kSuccess;
}

int nvmlInit_v2(void) { return (int)Setting("init", kNoGpu, kSuccess); }
int nvmlShutdown(void) { return kSuccess; }

int nvmlSystemGetDriverVersion(char* version, unsigned size) {
  snprintf(version, size, "535.129.03");
  return kSuccess;
}
int nvmlSystemGetCudaDriverVersion_v2(int* version) {
  *version = (int)Setting("cuda", kNoGpu, 12020);
  return kSuccess;
}
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = (unsigned)Setting("count", kNoGpu, 16);
  return kSuccess;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &devices[index];
  return (int)Setting("handle", (int)index, kSuccess);
}
int nvmlDeviceGetName(void* device, char* name, unsigned size) {
  snprintf(name, size, Setting("other_name", Index(device), 0) ? "Tesla P100" : "Tesla V100-SXM3-32GB");
  return kSuccess;
}

struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, device_id, subsystem_id;
  char bus_id[32];
};
int nvmlDeviceGetPciInfo_v3(void* device, struct PciInfo* info) {
  memset(info, 0, sizeof(*info));
  snprintf(info->bus_id, sizeof(info->bus_id), "00000000:%02X:00.0", 0xA0 + Index(device));
  return kSuccess;
}
int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
  const int both = (int)Setting("capability", Index(device), 70);
  *major = both / 10;
  *minor = both % 10;
  return kSuccess;
}

struct Memory {
  unsigned long long total, free, used;
};
int nvmlDeviceGetMemoryInfo(void* device, struct Memory* memory) {
  memory->total = 32510ull << 20;
  memory->free = (unsigned long long)Setting("free_mib", Index(device), 32110) << 20;
  memory->used = memory->total - memory->free;
  return kSuccess;
}

int nvmlDeviceGetEccMode(void* device, unsigned* current, unsigned* pending) {
  *pending = 1;
  return Answer(current, "ecc", device, 1);
}
int nvmlDeviceGetTotalEccErrors(void* device, unsigned type, unsigned counter, unsigned long long* count) {
  // Corrected ones are there on every old GPU; they must not be taken for the others.
  *count = type == 1 && counter == 0 ? (unsigned long long)Setting("uncorrected", Index(device), 0) : 12345;
  return kSuccess;
}
int nvmlDeviceGetRemappedRows(void* device, unsigned* corrected, unsigned* uncorrected, unsigned* pending,
                              unsigned* failure) {
  *corrected = *uncorrected = 0;
  if (Answer(pending, "remap_pending", device, -1) != kSuccess) return kNotSupported;  // V100 retires pages
  return Answer(failure, "remap_failed", device, 0);
}
int nvmlDeviceGetRetiredPagesPendingStatus(void* device, unsigned* pending) {
  return Answer(pending, "retire_pending", device, 0);
}
int nvmlDeviceGetMigMode(void* device, unsigned* current, unsigned* pending) {
  *pending = 0;
  return Answer(current, "mig", device, -1);
}
int nvmlDeviceGetComputeMode(void* device, unsigned* mode) { return Answer(mode, "compute_mode", device, 0); }
int nvmlDeviceGetPersistenceMode(void* device, unsigned* mode) { return Answer(mode, "persistence", device, 1); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void* device, unsigned long long* reasons) {
  *reasons = (unsigned long long)Setting("slow", Index(device), 1);  // idle
  return kSuccess;
}
int nvmlDeviceGetPowerManagementLimit(void* device, unsigned* milliwatts) {
  return Answer(milliwatts, "power", device, 350000);
}
int nvmlDeviceGetPowerManagementDefaultLimit(void* device, unsigned* milliwatts) {
  (void)device;
  *milliwatts = 350000;
  return kSuccess;
}

int nvmlDeviceGetNvLinkState(void* device, unsigned link, unsigned* active) {
  if (link >= 6 || Setting("no_links", Index(device), 0)) return kNotSupported;
  *active = link != 2 || Setting("link2", Index(device), 1) ? 1 : 0;
  return kSuccess;
}
// READ is 0, NVLINK 2. "no_peer@A=B": A and B cannot read each other; "no_nvlink@A=B": not by NVLink.
int nvmlDeviceGetP2PStatus(void* from, void* to, unsigned what, unsigned* status) {
  const char* name = what == 0 ? "no_peer" : "no_nvlink";
  const int a = Index(from);
  const int b = Index(to);
  const int broken = Setting(name, a, -1) == b || Setting(name, b, -1) == a ||
                     (what == 2 && (Setting("no_links", a, 0) || Setting("no_links", b, 0)));
  *status = broken ? 3 : 0;
  return kSuccess;
}
