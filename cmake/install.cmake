# cmake --install, and the Debian package: cpack -G DEB -B FOLDER in the build's folder.
if(MOEPOOL_CORE_ONLY)
  return()
endif()
include(GNUInstallDirs)

install(TARGETS moepool moepool-expert-worker moepool-gateway moepool-router RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)
install(FILES proto/inference.proto DESTINATION ${CMAKE_INSTALL_DATADIR}/moepool/proto)
# For who runs units on a GPU; systemd looks for it elsewhere.
install(FILES deploy/systemd/gpu.conf DESTINATION ${CMAKE_INSTALL_DATADIR}/moepool/systemd)
# Units and settings name the prefix, which is known no earlier than when they are installed.
install(CODE "set(MOEPOOL_SOURCE_DIR \"${PROJECT_SOURCE_DIR}\")
set(MOEPOOL_BINDIR \"${CMAKE_INSTALL_BINDIR}\")
set(MOEPOOL_SCRATCH_DIR \"${PROJECT_BINARY_DIR}/install\")")
install(SCRIPT cmake/install_units.cmake)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME moepool)
set(CPACK_PACKAGE_VENDOR moepool)
set(CPACK_PACKAGE_CONTACT "moepool maintainers <maintainers@moepool.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Mixture-of-Experts language models from a pool of ordinary machines")
set(CPACK_PACKAGE_DESCRIPTION "A router runs the attention trunk of a model, expert workers on as many machines as it
takes hold and compute its experts, and a gateway serves clients over HTTP and gRPC. Runs on CPU.")
set(CPACK_STRIP_FILES ON)
# With a DESTDIR the prefix is the real one, which the units name.
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS adduser)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
  ${PROJECT_SOURCE_DIR}/deploy/debian/conffiles ${PROJECT_SOURCE_DIR}/deploy/debian/postinst
  ${PROJECT_SOURCE_DIR}/deploy/debian/prerm ${PROJECT_SOURCE_DIR}/deploy/debian/postrm)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/cmake/install_debian.cmake)
include(CPack)
