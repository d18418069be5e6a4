# Read by cpack, once for each kind of package: what goes into it. deploy/cmake/OptserveInstall.cmake says what is what.
if(CPACK_GENERATOR STREQUAL "DEB")
  set(CPACK_COMPONENTS_ALL runtime service)
else()
  set(CPACK_COMPONENTS_ALL runtime bundled)
  set(CPACK_COMPONENT_INCLUDE_TOPLEVEL_DIRECTORY ON)
endif()
