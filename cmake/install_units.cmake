# Installs deploy/systemd and deploy/config with the names of the prefix in them. Under /usr settings are in /etc, as
# Debian has it, otherwise in etc of the prefix.
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  set(sysconfdir /etc)
else()
  set(sysconfdir ${CMAKE_INSTALL_PREFIX}/etc)
endif()
set(bindir ${CMAKE_INSTALL_PREFIX}/${MOEPOOL_BINDIR})

set(units)
file(GLOB templates ${MOEPOOL_SOURCE_DIR}/deploy/systemd/*.in)
foreach(template ${templates})
  get_filename_component(name ${template} NAME)
  string(REGEX REPLACE "\\.in$" "" name ${name})
  configure_file(${template} ${MOEPOOL_SCRATCH_DIR}/${name} @ONLY)
  list(APPEND units ${MOEPOOL_SCRATCH_DIR}/${name})
endforeach()
file(INSTALL ${units} ${MOEPOOL_SOURCE_DIR}/deploy/systemd/moepool.slice
  DESTINATION ${CMAKE_INSTALL_PREFIX}/lib/systemd/system TYPE FILE)

file(GLOB settings ${MOEPOOL_SOURCE_DIR}/deploy/config/*.yaml)
file(INSTALL ${settings} DESTINATION ${sysconfdir}/moepool TYPE FILE)
file(INSTALL ${MOEPOOL_SOURCE_DIR}/deploy/config/api-keys DESTINATION ${sysconfdir}/moepool TYPE FILE
  PERMISSIONS OWNER_READ OWNER_WRITE)
