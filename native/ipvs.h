#pragma once
// What native/ipvs*.cc share with each other and, by number, with src/dataplane/ipvs/packed-ipvs.ts.
#include <cstdint>

#include "addon.h"

constexpr uint8_t kIpvsNewService = 1;
constexpr uint8_t kIpvsDelService = 3;
constexpr uint8_t kIpvsDelDestination = 6;

constexpr uint8_t kIpvsServiceRow = 1;
constexpr uint8_t kIpvsDestinationRow = 2;

void InitIpvsLink(Napi::Env env, Napi::Object exports);
