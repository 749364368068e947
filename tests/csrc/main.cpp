// Runs every C++ unit test; exit code 1 when one fails.
#include "check.h"

int failures = 0;
std::string context;

int main() {
  test_numerics();
  test_scaling();
  test_fake_quant();
  test_hadamard();
  test_feedback();
  test_dialects();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
